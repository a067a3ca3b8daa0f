r"""The ideal denoiser of the solids: an exact image prior without a network or an autoencoder.

The data are n true renders u_i of the caption. Their denoiser is known in closed form (Karras et al. 2022, Eq. 57; the paper's Eq. 16):

    D*(x; sigma) = sum_i u_i softmax_i( -|x - u_i|^2 / (2 sigma^2) )

x is the image in [-1, 1], 64 x 64 x 3 = 12 288 values. Mean shift, product draws and posterior means of this density are exact, so every
gradient can be compared with the exact one in image space. Bandwidths and noise levels are standard deviations per coordinate. A render and
its nearest neighbour among 1024 of the same view are about 6 apart in Euclidean norm: a kernel of bandwidth 8 averages neighbours, one of
0.5 picks one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import Denoiser, as_sigma
from modeseek.core.errors import InvalidInput
from modeseek.core.guidance import EVERYWHERE, Interval
from modeseek.priors.pipelines.loading import checked_device
from modeseek.solids.captions import Scene, parse
from modeseek.solids.renders import true_renders

SIZE = 64
RENDERS = 1024
"""Renders per caption and view."""


class RenderDensity:
    """Equal point masses at renders; called as a denoiser on flattened images.

    The formula is that of `EmpiricalDensity`, in single precision with one copy of the data: (n, d) for keys and values together.
    The data are centred, so that the expanded square stays accurate down to sigma = 0.02.

    Args:
        images: (n, 3, h, w) in [0, 1].
    """

    def __init__(self, images: Tensor) -> None:
        points = images.flatten(1).float() * 2 - 1
        self.centre = points.mean(0)
        self.points = points.sub_(self.centre)
        self.half_squares = self.points.square().sum(1) / 2

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Posterior mean at x (batch, d) and sigma () or (batch,): (batch, d). Costs 4 batch n d floating-point operations."""
        self._move(x.device)
        weights = self.log_weights(x, sigma).softmax(1)
        return (weights @ self.points + self.centre).to(x.dtype)

    def log_weights(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log of the posterior weight of each render, up to a constant per item: (batch, n)."""
        self._move(x.device)
        precision = as_sigma(sigma, x).float().expand(len(x))[:, None] ** -2
        return ((x.float() - self.centre) @ self.points.T - self.half_squares) * precision

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distance to the nearest render, and its index: two (batch,)."""
        self._move(x.device)
        centred = x.float() - self.centre
        index = (centred @ self.points.T - self.half_squares).argmax(1)
        return (centred - self.points[index]).square().sum(1), index

    def _move(self, device: torch.device) -> None:
        if self.points.device != device:
            self.centre, self.points, self.half_squares = (t.to(device) for t in (self.centre, self.points, self.half_squares))


@lru_cache(maxsize=16)
def render_density(scene: Scene, view: str | None, count: int, seed: int) -> RenderDensity:
    """Return the density of a caption's renders, cached for the last sixteen captions (50 MB each at 1024 renders)."""
    return RenderDensity(true_renders(scene, view, count, size=SIZE, seed=seed))


@dataclass(frozen=True, kw_only=True)
class IdealSolidsPrior:
    """Exact denoisers of true renders; an `ImagePrior` for `modeseek.solids` captions.

    The first call with a caption traces its renders (10 s for 1024 on one core) and keeps them in `modeseek.solids.renders`' cache folder.

    Args:
        count: renders per caption and view, a multiple of 4.
        seed: of their cameras.
        device: device of x.
    """

    count: int = RENDERS
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    event: tuple[int, int, int] = (3, SIZE, SIZE)
    image_size: tuple[int, int] = (SIZE, SIZE)
    sigmas: tuple[float, float] = (0.02, 80.0)
    data_std: float = 0.5
    distilled: bool = False
    default_guidance: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", checked_device(self.device))
        if self.count < 4 or self.count % 4:
            raise InvalidInput(f"the renders per caption must be a positive multiple of 4, got count={self.count}")

    def denoiser(
        self, prompts: Sequence[str], *, guidance: float | None = None, negative: Any = None, interval: Interval = EVERYWHERE
    ) -> Denoiser:
        """D for one caption per item; x may hold any multiple of them, copies of the batch one after another.

        Raises:
            InvalidInput: a caption outside the vocabulary, or guidance: there is no unconditional density to guide away from, and an exact
                conditional denoiser needs none.
        """
        del interval
        if isinstance(prompts, str) or not prompts:
            raise InvalidInput(f"prompts must be a list with one caption per item, got {prompts!r}")
        if guidance not in (None, 1) or negative:
            words = f"guidance={guidance}" + (f" and negative={negative!r}" if negative else "")
            raise InvalidInput(f"the ideal denoiser is exact and takes no guidance: give guidance=1 and no negative prompt, got {words}")
        meanings = [parse(prompt) for prompt in prompts]

        @torch.no_grad()
        def ideal(x: Tensor, sigma: Tensor) -> Tensor:
            if x.shape[1:] != self.event or len(x) % len(meanings):
                raise InvalidInput(f"x must be (a multiple of {len(meanings)}, {', '.join(map(str, self.event))}), got {tuple(x.shape)}")
            levels = as_sigma(sigma, x).expand(len(x))
            result = torch.empty_like(x)
            for meaning in dict.fromkeys(meanings):
                items = torch.tensor([k for k in range(len(x)) if meanings[k % len(meanings)] == meaning], device=x.device)
                density = render_density(*meaning, self.count, self.seed)
                result[items] = density(x[items].flatten(1), levels[items]).reshape(-1, *self.event)
            return result

        return ideal

    def encode(self, image: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """(batch, 3, 64, 64) in [0, 1] -> x = 2 image - 1, differentiable.

        Raises:
            InvalidInput: an image of another shape.
        """
        del rng
        if image.shape[1:] != self.event:
            raise InvalidInput(f"this prior encodes images (batch, 3, {SIZE}, {SIZE}), got {tuple(image.shape)}")
        return (2 * image - 1).to(self.device)

    def decode(self, x: Tensor) -> Tensor:
        """x -> (batch, 3, 64, 64), differentiable, not clamped."""
        return x / 2 + 0.5

    def auxiliary(self, prompts: Sequence[str], *, rank: int = 4, seed: int = 0) -> nn.Module:
        """Not available: VSD adapts a network, and the ideal denoiser has none.

        Raises:
            InvalidInput: always.
        """
        raise InvalidInput("VSD needs a network to adapt; the ideal denoiser has none: choose another method, or the prior solids")


def psnr_to_nearest(images: Tensor, density: RenderDensity) -> Tensor:
    """Peak signal-to-noise ratio of each image (n, 3, h, w) in [0, 1] to the nearest render of the density: (n,) dB."""
    squares, _ = density.nearest(2 * images.flatten(1) - 1)
    mean = squares / 4 / images[0].numel()
    return -10 * mean.clamp_min(1e-9).log10()
