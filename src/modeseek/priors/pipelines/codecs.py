r"""From images in [0, 1] to x and back: through an autoencoder, or by a shift for models that live in pixels.

    latent      x = (z - shift) scale,   z ~ N(mean(image), std(image)^2), the autoencoder's posterior
    pixel       x = 2 image - 1

The scale and shift are the autoencoder's own (Rombach et al. 2022: 0.18215 brings Stable Diffusion's latents to unit size). It runs in
its own dtype, which for SDXL must not be float16 (its activations overflow); results come back in the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput


class Codec(Protocol):
    """Images (batch, 3, height, width) in [0, 1] to x and back, both differentiable."""

    def encode(self, image: Tensor, rng: torch.Generator | None) -> Tensor: ...
    def decode(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class LatentCodec:
    """The autoencoder of a pipeline; looked up at each call, so that its owner may replace it."""

    pipeline: Any

    def encode(self, image: Tensor, rng: torch.Generator | None) -> Tensor:
        vae = self.pipeline.vae
        posterior = vae.encode((2 * image - 1).to(vae.dtype)).latent_dist
        z = posterior.mean
        if rng is not None:  # drawn on the CPU, so that every device sees the same numbers
            z = z + posterior.std * torch.randn(z.shape, generator=rng).to(z)
        shift, scale = self._affine(z)
        return ((z - shift) * scale).to(image.dtype)

    def decode(self, x: Tensor) -> Tensor:
        vae = self.pipeline.vae
        shift, scale = self._affine(x)
        return (vae.decode((x / scale + shift).to(vae.dtype)).sample / 2 + 0.5).to(x.dtype)

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale; a few models (Playground 2.5) state a mean and a standard deviation for each channel."""
        config = self.pipeline.vae.config
        means, stds = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        factor = torch.tensor(config.scaling_factor, dtype=like.dtype, device=like.device)
        if means is not None and stds is not None:
            return like.new_tensor(means).reshape(-1, 1, 1), factor / like.new_tensor(stds).reshape(-1, 1, 1)
        return torch.zeros_like(factor) + (getattr(config, "shift_factor", None) or 0.0), factor


@dataclass(frozen=True)
class PixelCodec:
    """x is the image in [-1, 1]; a model of grey images sees the mean of the colours and shows three equal ones."""

    channels: int

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InvalidInput(f"a pixel model must have 1 or 3 channels, this one has {self.channels}")

    def encode(self, image: Tensor, rng: torch.Generator | None) -> Tensor:
        x = 2 * image - 1
        return x if self.channels == 3 else x.mean(1, keepdim=True)

    def decode(self, x: Tensor) -> Tensor:
        return (x / 2 + 0.5).expand(-1, 3, -1, -1)
