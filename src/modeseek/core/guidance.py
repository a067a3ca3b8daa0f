r"""Guidance: two denoisers in, one denoiser out (the paper's Eq. 13, in the one convention of this package).

    D_s = D_u + s (D_c - D_u)          s = 1 is no guidance; the paper's w is s - 1

Classifier-free guidance (Ho & Salimans 2022) takes the unconditional denoiser as D_u, autoguidance (Karras et al. 2024) a worse model of
the same condition. A limited interval (Kynkaanniemi et al. 2024) guides only where lo <= sigma <= hi. Since eps and score are
linear in D, guiding D is equivalent to guiding them. Note that s in threestudio's SDS, SJC and SDI corresponds to s + 1 here.
`Guided` makes two denoiser calls inside the interval; `GuidedPair` gets both from one call. Outside the interval each makes one call.

Perp-Neg (Armandpour et al. 2023) also guides away from further conditions D_i, each along the component of its direction that is
perpendicular to D_c - D_u:

    D = D_u + s (D_c - D_u + sum_i w_i perp(D_i - D_u, D_c - D_u)),   w_i <= 0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser, as_sigma, per_item
from modeseek.core.errors import InvalidInput

Interval = tuple[float, float]
EVERYWHERE: Interval = (0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class GuidedPair:
    """A denoiser guided by one call that returns both sides, as a network on the concatenated batch does; itself a `Denoiser`.

    Args:
        denoiser: D_c alone, evaluated when no item is guided.
        pair: `(x, sigma) -> (D_c, D_u)`, evaluated when any item is.
        scale: s; 1 is no guidance.
        interval: (lo, hi), the noise levels at which to guide.

    Example:
        >>> pair = GuidedPair(denoiser=lambda x, s: x + 1, pair=lambda x, s: (x + 1, x), scale=3.0)
        >>> pair(torch.zeros(1, 2), torch.tensor(1.0))
        tensor([[3., 3.]])
    """

    denoiser: Denoiser
    pair: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    scale: float
    interval: Interval = EVERYWHERE

    def __post_init__(self) -> None:
        check_guidance(self.scale, self.interval)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = as_sigma(sigma, x)
        inside = (sigma >= self.interval[0]) & (sigma <= self.interval[1])
        if self.scale == 1 or not bool(inside.any()):
            return self.denoiser(x, sigma)
        strong, weak = self.pair(x, sigma)
        scale = per_item(torch.where(inside, self.scale, 1.0).to(sigma), x)
        return (weak + scale * (strong - weak)).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class Guided:
    """A denoiser pushed away from a weaker one; itself a `Denoiser`.

    Args:
        denoiser: D_c, the one to follow.
        weaker: D_u, unconditional (classifier-free guidance) or worse (autoguidance).
        scale: s; 1 returns `denoiser`.
        interval: (lo, hi), the noise levels at which to guide.

    Example:
        >>> guided = Guided(denoiser=lambda x, s: x + 1, weaker=lambda x, s: x, scale=3.0)
        >>> guided(torch.zeros(1, 2), torch.tensor(1.0))
        tensor([[3., 3.]])
    """

    denoiser: Denoiser
    weaker: Denoiser
    scale: float
    interval: Interval = EVERYWHERE

    def __post_init__(self) -> None:
        check_guidance(self.scale, self.interval)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return GuidedPair(denoiser=self.denoiser, pair=self._both, scale=self.scale, interval=self.interval)(x, sigma)

    def _both(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return self.denoiser(x, sigma), self.weaker(x, sigma)


@dataclass(frozen=True, kw_only=True)
class PerpNeg:
    """A denoiser guided by Perp-Neg; itself a `Denoiser`. Inside the interval each denoiser is called once.

    Args:
        denoiser: D_c, the one to follow.
        weaker: D_u, unconditional.
        others: the D_i to push off.
        weights: (batch, others), 0 or below; or of a batch that x holds copies of.
        scale: s.
        interval: (lo, hi), the noise levels at which to guide; outside them it is D_c.

    Example:
        >>> one = PerpNeg(denoiser=lambda x, s: x + torch.tensor([1.0, 0.0]), weaker=lambda x, s: x,
        ...               others=[lambda x, s: x + torch.tensor([1.0, 1.0])], weights=torch.tensor([[-0.5]]), scale=2.0)
        >>> one(torch.zeros(1, 2), torch.tensor(1.0))
        tensor([[ 2., -1.]])
    """

    denoiser: Denoiser
    weaker: Denoiser
    others: Sequence[Denoiser]
    weights: Tensor
    scale: float
    interval: Interval = EVERYWHERE

    def __post_init__(self) -> None:
        check_guidance(self.scale, self.interval)
        if self.weights.ndim != 2 or self.weights.shape[1] != len(self.others) or bool((self.weights > 0).any()):
            raise InvalidInput(f"Perp-Neg needs weights (batch, {len(self.others)}) of 0 or below, got {self.weights.tolist()}")

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = as_sigma(sigma, x)
        strong = self.denoiser(x, sigma)
        inside = (sigma >= self.interval[0]) & (sigma <= self.interval[1])
        if not bool(inside.any()):
            return strong
        weak = self.weaker(x, sigma)
        towards = followed = strong - weak
        weights = self.weights.to(x).repeat(len(x) // len(self.weights), 1)
        for other, weight in zip(self.others, weights.T, strict=True):
            followed = followed + per_item(weight, x) * perpendicular(other(x, sigma) - weak, towards)
        return torch.where(per_item(inside, x), weak + self.scale * followed, strong)


def perpendicular(v: Tensor, u: Tensor) -> Tensor:
    """The part of each item of v that is perpendicular to u.

    Example:
        >>> perpendicular(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([[3., 0.]])
    """
    square = u.square().flatten(1).sum(1)
    along = (v * u).flatten(1).sum(1) / torch.where(square > 0, square, 1.0)
    return v - per_item(along, u) * u


def check_guidance(scale: float, interval: Interval) -> None:
    """Raise `InvalidInput` unless the scale is finite and the interval is one of noise levels."""
    if not math.isfinite(scale) or not 0 <= interval[0] < interval[1]:
        raise InvalidInput(f"guidance needs a finite scale and 0 <= lo < hi, got {scale} and {interval}")
