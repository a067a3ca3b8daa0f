r"""The interface of image priors: denoisers for prompts, and maps between images and x.

x is clean data in the coordinate of this package (`modeseek.core.denoiser`): the scaled latent of a latent diffusion model, the
image itself in [-1, 1] of a pixel model. Images are (batch, 3, height, width) with values in [0, 1] everywhere in this package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import Denoiser


class ImagePrior(Protocol):
    """A frozen diffusion model of images, with or without text.

    Attributes:
        event: shape of one x, (channels, height, width).
        image_size: (height, width) of its images in pixels.
        sigmas: (lowest, highest) noise level at which its network was trained.
        data_std: standard deviation of x over the data, for the samplers that need one.
        device: device of x.
        distilled: guidance was distilled into the network, which takes the scale as an input; a negative scale is not defined.
        default_guidance: the scale for which the model was made, used if none is given.
    """

    @property
    def event(self) -> tuple[int, int, int]: ...
    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def sigmas(self) -> tuple[float, float]: ...
    @property
    def data_std(self) -> float: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def distilled(self) -> bool: ...
    @property
    def default_guidance(self) -> float: ...

    def denoiser(
        self,
        prompts: Sequence[str],
        *,
        guidance: float | None = None,
        negative: Any = None,
        interval: tuple[float, float] = (0.0, math.inf),
    ) -> Denoiser:
        """D for one prompt per item: x may hold len(prompts) items, or any multiple of it, copies of the batch one after another.

        Guidance is D_u + guidance (D_c - D_u) inside the interval of noise levels, evaluated as one batch; guidance None:
        `default_guidance`. D_u is at the negative prompt: one for all items, one per item, or None for the model's own.
        One call of it counts as one denoiser call, guided or not.
        """
        ...

    def encode(self, image: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """(batch, 3, height, width) in [0, 1] -> x, differentiable; the posterior's mean, or a sample of it if `rng` is given."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """x -> (batch, 3, height, width), about [0, 1], differentiable, not clamped."""
        ...

    def auxiliary(self, prompts: Sequence[str], *, rank: int = 4, seed: int = 0) -> nn.Module:
        """D_aux for VSD: the same network with a fresh LoRA, called `(x, sigma)`; its parameters and state are the LoRA's alone."""
        ...
