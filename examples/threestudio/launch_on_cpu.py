"""Run threestudio's own launch.py on a CPU, with stand-ins for its compiled parts: a check of the guidance, not a way to make objects.

    python examples/threestudio/launch_on_cpu.py THREESTUDIO CONFIG [launch.py's options and overrides]

    python examples/threestudio/launch_on_cpu.py ~/threestudio configs/prolificdreamer.yaml --train trainer.max_steps=2 \\
        system.prompt_processor.prompt="a red cube" system.guidance_type=modeseek-guidance system.guidance.recipe=vsd ...

THREESTUDIO is a checkout of https://github.com/threestudio-project/threestudio (tested with 28d9d80). Its pure Python requirements must be
installed: lightning, omegaconf, jaxtyping, einops, opencv-python-headless. Stood in for:

    tinycudann      encodings become sines of random directions, networks small multilayer perceptrons
    nerfacc         samples lie evenly on each ray inside the box; weights and sums are plain PyTorch
    nvdiffrast, igl, xatlas and other packages that these systems import and do not use: empty modules
    Lightning       the trainer's accelerator is the CPU in float32; devices from the environment variable DEVICES, 1 by default
    imageio         videos are not written

The guidance is registered from a temporary custom folder; threestudio's folder is not written to.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import runpy
import sys
import types
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import imageio
import torch
from torch import Tensor, nn

SAMPLES = 24  # on each ray
EMPTY = (
    *(
        "nvdiffrast",
        "igl",
        "envlight",
        "kornia",
        "taming",
        "clip",
        "controlnet_aux",
        "tomesd",
        "mcubes",
        "pysdf",
        "xatlas",
        "wandb",
        "rembg",
    ),
    *("torchvision", "bitsandbytes", "xformers", "extern", "apex", "trimesh"),
)
"""Packages that threestudio imports and these runs do not use; those that are installed are left alone."""


class Anything:
    """A name in an empty module: it can be called, subclassed and looked into."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        del arguments, options

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) else self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class EmptyModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of packages that are missing, with every name in them."""

    def __init__(self, roots: tuple[str, ...]) -> None:
        self.roots = tuple(root for root in roots if importlib.util.find_spec(root) is None)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        del path, target
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self.roots else None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = lambda name: _missing(spec.name, name)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        del module


def _missing(module: str, name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(f"{module} has no {name}")
    return Anything


# ---------------------------------------------------------------- tinycudann
class Encoding(nn.Module):
    """Sines of random directions, as many as the configured encoding has outputs."""

    def __init__(self, n_input_dims: int, config: Any, dtype: Any = None) -> None:
        super().__init__()
        del dtype
        config = dict(config)
        harmonics = int(config.get("degree", 0)) ** 2
        self.n_input_dims = n_input_dims
        self.n_output_dims = harmonics or int(config.get("n_levels", 8)) * int(config.get("n_features_per_level", 2))
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("directions", 4 * torch.randn(n_input_dims, self.n_output_dims, generator=rng), persistent=False)
        self.scale = nn.Parameter(torch.ones(self.n_output_dims))  # tinycudann's grids have parameters

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x.float() @ self.directions).sin()


def network(n_input_dims: int, n_output_dims: int, config: Any) -> nn.Module:
    """A multilayer perceptron of one hidden layer."""
    width = int(dict(config).get("n_neurons", 32))
    return nn.Sequential(nn.Linear(n_input_dims, width), nn.ReLU(), nn.Linear(width, n_output_dims))


def network_with_encoding(*, n_input_dims: int, n_output_dims: int, encoding_config: Any, network_config: Any) -> nn.Module:
    """An encoding and a network."""
    encoding = Encoding(n_input_dims, encoding_config)
    return nn.Sequential(encoding, network(encoding.n_output_dims, n_output_dims, network_config))


# ---------------------------------------------------------------- nerfacc
class Estimator(nn.Module):
    """Even samples between the points where a ray enters and leaves the box."""

    def __init__(self, roi_aabb: Tensor | None = None, resolution: int = 32, levels: int = 1) -> None:
        super().__init__()
        self.register_buffer("box", torch.as_tensor(roi_aabb if roi_aabb is not None else [-1, -1, -1, 1, 1, 1]).float().clone())
        self.register_buffer("occs", torch.ones(resolution**3 * levels))
        self.register_buffer("binaries", torch.ones(levels, resolution, resolution, resolution, dtype=torch.bool))

    def sampling(self, rays_o: Tensor, rays_d: Tensor, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        del options
        low, high = self.box[:3], self.box[3:]
        away = torch.where(rays_d.abs() < 1e-8, 1e-8, rays_d)
        first, second = (low - rays_o) / away, (high - rays_o) / away
        near = torch.minimum(first, second).amax(1).clamp_min(0)
        far = torch.maximum(torch.maximum(first, second).amin(1), near + 1e-3)
        edges = near[:, None] + (far - near)[:, None] * torch.linspace(0, 1, SAMPLES + 1, device=rays_o.device)
        rays = torch.arange(len(rays_o), device=rays_o.device).repeat_interleave(SAMPLES)
        return rays, edges[:, :-1].flatten(), edges[:, 1:].flatten()

    def update_every_n_steps(self, *arguments: Any, **options: Any) -> None:
        """The grid stays as it is."""


def render_weight_from_density(
    starts: Tensor, ends: Tensor, density: Tensor, *, ray_indices: Tensor, n_rays: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, transmittances and opacities of even samples: T_i (1 - exp(-sigma_i dt_i))."""
    del ray_indices
    depth = (density * (ends - starts)).reshape(n_rays, SAMPLES)
    transmitted = (-(depth.cumsum(1) - depth)).exp()
    alpha = 1 - (-depth).exp()
    return (transmitted * alpha).flatten(), transmitted.flatten(), alpha.flatten()


def accumulate_along_rays(weights: Tensor, *, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
    """Weighted sums of values over each ray: (n_rays, features)."""
    terms = weights[:, None] if values is None else weights[:, None] * values
    return torch.zeros(n_rays, terms.shape[1], dtype=terms.dtype, device=terms.device).index_add(0, ray_indices, terms)


def install() -> None:
    """Put every stand-in in place."""
    compiled = types.ModuleType("tinycudann")
    compiled.Encoding, compiled.Network, compiled.NetworkWithInputEncoding = Encoding, network, network_with_encoding  # type: ignore
    compiled.free_temporary_memory = lambda: None  # type: ignore[attr-defined]
    volume = types.ModuleType("nerfacc")
    volume.__path__ = []  # type: ignore[attr-defined]
    volume.OccGridEstimator = volume.PropNetEstimator = Estimator  # type: ignore[attr-defined]
    volume.render_weight_from_density, volume.accumulate_along_rays = render_weight_from_density, accumulate_along_rays  # type: ignore
    sys.modules |= {"tinycudann": compiled, "nerfacc": volume}
    for name in ("data_specs", "estimators", "estimators.base", "estimators.prop_net", "pdf", "volrend"):
        part = types.ModuleType(f"nerfacc.{name}")
        part.__getattr__ = lambda wanted, name=name: nn.Module if wanted == "AbstractEstimator" else _missing(name, wanted)  # type: ignore
        sys.modules[part.__name__] = part
    _older_libraries()
    sys.meta_path.append(EmptyModules(EMPTY))
    imageio.mimsave = lambda *arguments, **options: None
    torch.cuda.device = lambda *arguments: nullcontext()  # type: ignore[assignment, misc]
    _trainer_on_cpu()


def _older_libraries() -> None:
    """Names of older diffusers, transformers and torch that threestudio imports and these runs do not use."""
    import diffusers.loaders
    import diffusers.models.attention_processor as attention
    from diffusers import StableDiffusionPipeline
    from transformers.utils import import_utils

    for name in dir(import_utils):  # cache what is installed before empty modules replace what is not
        if name.startswith("is_") and name.endswith("_available"):
            with suppress(Exception):
                getattr(import_utils, name)()
    del StableDiffusionPipeline
    for module, names in ((diffusers.loaders, ("AttnProcsLayers",)), (attention, ("LoRAAttnProcessor",))):
        for name in names:
            if not hasattr(module, name):
                setattr(module, name, Anything)
    for name in ("IFPipeline", "StableDiffusionControlNetPipeline", "StableDiffusionInstructPix2PixPipeline"):
        diffusers.__dict__[name] = Anything
    for name in ("diffusers.models.cross_attention", "diffusers.models.attention_processor"):
        sys.modules.setdefault(name, attention)
    load = torch.load
    torch.load = lambda *arguments, **options: load(*arguments, **{"weights_only": False, **options})  # checkpoints hold configurations


def _trainer_on_cpu() -> None:
    import pytorch_lightning

    class Trainer(pytorch_lightning.Trainer):
        def __init__(self, **options: Any) -> None:
            devices = int(os.environ.get("DEVICES", "1"))
            changes = {"accelerator": "cpu", "devices": devices, "precision": "32-true", "enable_progress_bar": False}
            changes |= {"strategy": "ddp_fork"} if devices > 1 else {}
            options["callbacks"] = [one for one in options.get("callbacks", []) if "ProgressBar" not in type(one).__name__]
            super().__init__(**{**options, **changes})

    pytorch_lightning.Trainer = Trainer  # type: ignore[misc]


def main(folder: Path, config: str, options: list[str]) -> None:
    """Run launch.py in its folder with the guidance registered."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    install()
    import threestudio.models.networks

    from modeseek.integrations.threestudio import register

    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("threestudio") and hasattr(module, "get_device"):
            module.get_device = lambda: torch.device("cpu")  # type: ignore[attr-defined]
    threestudio.models.networks.get_rank = lambda: "cpu"  # which is a device there
    register()
    sys.argv = ["launch.py", "--config", config, *options]
    runpy.run_path("launch.py", run_name="__main__")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]).resolve(), sys.argv[2], sys.argv[3:])
