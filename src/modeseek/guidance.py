r"""Guidance: two denoisers in, one denoiser out (the paper's Eq. 13, in the one convention of this package).

    D_s = D_u + s (D_c - D_u)          s = 1 is no guidance; the paper's w is s - 1

Classifier-free guidance (Ho & Salimans 2022) takes the unconditional denoiser as D_u, autoguidance (Karras et al. 2024) a worse model of
the same condition. A limited interval (Kynkaanniemi et al. 2024) guides only where lo <= sigma <= hi. Since eps and score are
linear in D, guiding D is guiding them. Do not confuse: threestudio's SDS, SJC and SDI write s for our s + 1.
Two denoiser calls inside the interval, one outside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modeseek.denoiser import Denoiser, as_sigma, per_item
from modeseek.errors import InvalidInput


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
    interval: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale) or not 0 <= self.interval[0] < self.interval[1]:
            raise InvalidInput(f"guidance needs a finite scale and 0 <= lo < hi, got {self.scale} and {self.interval}")

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = as_sigma(sigma, x)
        strong = self.denoiser(x, sigma)
        inside = (sigma >= self.interval[0]) & (sigma <= self.interval[1])
        if self.scale == 1 or not bool(inside.any()):
            return strong
        weak = self.weaker(x, sigma)
        scale = per_item(torch.where(inside, self.scale, 1.0).to(x), x)
        return weak + scale * (strong - weak)
