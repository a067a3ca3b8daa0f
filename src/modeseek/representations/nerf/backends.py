r"""Backends of the hash grid: plain PyTorch, or tiny-cuda-nn on a CUDA device.

    backend    grid                            needs
    torch      `hashgrid.HashGrid`             nothing: every device
    tcnn       tinycudann.Encoding             an Nvidia GPU and tiny-cuda-nn, built from source; no normals by autograd that are trained

"tcnn" is used only if it is named: its table has another layout, so a checkpoint of one backend does not load into the other. Compositing
is a cumulative sum in PyTorch and takes a small part of a step, so nerfacc's kernel for it is not used.
"""

from __future__ import annotations

import importlib.util
from typing import Literal

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput, MissingPackage
from modeseek.representations.nerf.hashgrid import HashGrid, HashGridSettings

Backend = Literal["torch", "tcnn"]


def encoding(settings: HashGridSettings, backend: Backend, *, rng: torch.Generator) -> HashGrid | TinyCudaGrid:
    """Make the hash grid of a backend.

    Raises:
        InvalidInput: an unknown backend.
        MissingPackage: tiny-cuda-nn or a CUDA device is missing.
    """
    if backend == "torch":
        return HashGrid(settings, rng=rng)
    if backend == "tcnn":
        return TinyCudaGrid(settings, rng=rng)
    raise InvalidInput(f"backend {backend!r} is unknown: choose torch or tcnn")


class TinyCudaGrid(nn.Module):
    """tiny-cuda-nn's grid with the same sizes and the same schedule of levels as `HashGrid`."""

    def __init__(self, settings: HashGridSettings, *, rng: torch.Generator) -> None:
        super().__init__()
        if not torch.cuda.is_available() or importlib.util.find_spec("tinycudann") is None:
            raise MissingPackage(
                "backend 'tcnn' needs a CUDA device and tiny-cuda-nn (github.com/NVlabs/tiny-cuda-nn); 'torch' needs neither"
            )
        import tinycudann

        self.settings, self.active = settings, settings.levels
        sizes = {"n_levels": settings.levels, "n_features_per_level": 2, "log2_hashmap_size": settings.log2_entries}
        scales = {"base_resolution": settings.base, "per_level_scale": settings.growth}
        seed = int(torch.randint(2**31 - 1, (), generator=rng))
        self.grid = tinycudann.Encoding(3, {"otype": "HashGrid", **sizes, **scales}, seed=seed, dtype=torch.float32)

    def forward(self, points: Tensor) -> Tensor:
        values = self.grid(points.clamp(0, 1))
        kept = torch.arange(values.shape[1], device=values.device) < 2 * self.active
        return values * kept
