r"""From images in [0, 1] to x and back: through an autoencoder, or by scale and shift for pixel-space models.

    latent      x = (z - shift) scale,   z ~ N(mean(image), std(image)^2), the autoencoder's posterior
    pixel       x = 2 image - 1

Scale and shift are the autoencoder's own (Rombach et al. 2022: 0.18215 brings Stable Diffusion's latents to unit size), or a mean and a
standard deviation per channel (`latents_mean`, `latents_std`; Playground 2.5). Autoencoders without a posterior (AutoencoderTiny, which
is TAESD; VQModel) encode to one latent, and a random generator changes nothing. Tiling and slicing are the autoencoder's own. It runs in
its own dtype; results come back in the caller's. Where it states `force_upcast` (SDXL) its activations overflow in float16: it is
refused there.
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
        vae = checked_autoencoder(self.pipeline)
        z = latent_of(vae.encode((2 * image - 1).to(vae.dtype)), rng)
        shift, scale = self._affine(z)
        return ((z - shift) * scale).to(image.dtype)

    def decode(self, x: Tensor) -> Tensor:
        vae = checked_autoencoder(self.pipeline)
        shift, scale = self._affine(x)
        return (vae.decode((x / scale + shift).to(vae.dtype)).sample / 2 + 0.5).to(x.dtype)

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale; a few models (Playground 2.5) state a mean and a standard deviation for each channel."""
        config = self.pipeline.vae.config
        means, stds = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
        factor = torch.tensor(checked_scale(config), dtype=like.dtype, device=like.device)
        if means is not None and stds is not None:
            return like.new_tensor(means).reshape(-1, 1, 1), factor / like.new_tensor(stds).reshape(-1, 1, 1)
        return torch.zeros_like(factor) + (getattr(config, "shift_factor", None) or 0.0), factor


@dataclass(frozen=True)
class PixelCodec:
    """x is the image in [-1, 1]; a model of grey images reads the mean of the colours and shows three equal ones."""

    channels: int

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InvalidInput(f"a pixel model must have 1 or 3 channels, this one has {self.channels}")

    def encode(self, image: Tensor, rng: torch.Generator | None) -> Tensor:
        x = 2 * image - 1
        return x if self.channels == 3 else x.mean(1, keepdim=True)

    def decode(self, x: Tensor) -> Tensor:
        return (x / 2 + 0.5).expand(-1, 3, -1, -1)


def checked_autoencoder(pipeline: Any) -> Any:
    """The pipeline's autoencoder.

    Raises:
        InvalidInput: it has none, or one in float16 that overflows there.
    """
    vae = pipeline.vae
    if vae is None:
        raise InvalidInput(
            "this pipeline has no autoencoder: images are neither encoded nor decoded; work on latents (representation latents)"
        )
    if vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
        raise InvalidInput("this autoencoder overflows in float16 (force_upcast): pipeline.vae.to(torch.float32), the rest may stay")
    return vae


def checked_scale(config: Any) -> float:
    """The scale of an autoencoder's latents.

    Raises:
        InvalidInput: its configuration states none, or one that is not positive.
    """
    scale = getattr(config, "scaling_factor", None)
    if not isinstance(scale, int | float) or not 0 < scale < float("inf"):
        raise InvalidInput(f"the autoencoder's scaling_factor is {scale!r}: its latents cannot be brought to x; correct its config.json")
    return float(scale)


def latent_of(encoded: Any, rng: torch.Generator | None) -> Tensor:
    """The latent in an autoencoder's output: the posterior's mean, or a draw of it; or the one latent of those without a posterior."""
    posterior = getattr(encoded, "latent_dist", None)
    if posterior is None:
        return encoded.latents if hasattr(encoded, "latents") else encoded.latent
    if rng is None:
        return posterior.mean
    return posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=rng).to(posterior.mean)  # drawn on the CPU
