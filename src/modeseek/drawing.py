r"""Drawing y from the product density $q(y|x) \propto p(y) N(y; x, \ell^2 I)$: the paper's two samplers and ours.

Every sampler is called `draw(denoiser, centre, bandwidth, noise) -> y`, with noise ~ N(0, I) shaped like the centre: all
chance is in it. With z the state, sigma its level and x the centre:

    EulerDraw      z <- z + dsigma (eps(z; sigma) + (z - x)/l^2)            Eq. 12, as published
    SplitDraw      z' = DDIM step of z; z <- c + (z' - c) exp(dsigma/l^2)   Eqs. 14-15 and Algorithm 2, as published
    ExactDraw      DDIM or Heun on `ExactProduct`                           ours, exact in the limit of many steps
    ProximalDraw   DDIM or Heun on `ProximalProduct`                        ours, exact for Gaussian data

In Eq. 12 the printed sign of the kernel term pushes away from x; the sign here pulls. The explicit step is unstable once
|dsigma| > l^2. The split step is stable, but exp(-sigma_max/l^2) wipes out the start noise: y is a deterministic function of x and
not a sample of q (docs: "What the paper's sampler computes"). Each costs `steps` denoiser calls with DDIM, unless it says more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modeseek.denoiser import Denoiser, eps, per_item
from modeseek.product import ExactProduct, ProximalProduct
from modeseek.sampling import ddim, heun, invert
from modeseek.schedules import check_levels, karras

SOLVERS = {"ddim": ddim, "heun": heun}
Solver = Literal["ddim", "heun"]
ProductDraw = Callable[[Denoiser, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class EulerDraw:
    """Eq. 12 as published: the kernel's score added to the network's, explicit Euler. Diverges for small bandwidths."""

    steps: int = 32
    sigma_min: float = 0.002
    sigma_max: float = 5.0

    def __post_init__(self) -> None:
        check_levels(self.steps, self.sigma_min, self.sigma_max)

    def __call__(self, denoiser: Denoiser, centre: Tensor, bandwidth: Tensor, noise: Tensor) -> Tensor:
        levels = karras(self.steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max).to(centre)
        precision = per_item(bandwidth, centre) ** -2
        z = levels[0] * noise
        for sigma, following in itertools.pairwise(levels):
            z = z + (following - sigma) * (eps(denoiser, z, sigma) + precision * (z - centre))
        return z


@dataclass(frozen=True, kw_only=True)
class SplitDraw:
    r"""Eqs. 14-15 as published: a DDIM step, then exponential decay towards the centre with time constant l^2 in sigma.

    Args:
        steps: DDIM steps.
        sigma_min: lowest level before 0.
        sigma_max: level of the start.
        centre: "point": decay towards x itself (Eq. 15). "noised": towards x + sigma n, "inverted": towards x's DDIM inversion at
            each level, both with the blended start of Algorithm 2; "inverted" costs `steps` - 1 calls more.
        interval: (lo, hi), the levels at which the kernel acts.
    """

    steps: int = 32
    sigma_min: float = 0.002
    sigma_max: float = 5.0
    centre: Literal["point", "noised", "inverted"] = "point"
    interval: tuple[float, float] = (0.0, math.inf)

    def __post_init__(self) -> None:
        check_levels(self.steps, self.sigma_min, self.sigma_max)

    def __call__(self, denoiser: Denoiser, centre: Tensor, bandwidth: Tensor, noise: Tensor) -> Tensor:
        levels = karras(self.steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max).to(centre)
        path = self._centres(denoiser, centre, levels, noise)
        rate = per_item(bandwidth, centre) ** -2

        def pulled(z: Tensor, index: int, step: Tensor) -> Tensor:
            active = self.interval[0] <= float(levels[index]) <= self.interval[1]
            return path(index) + (z - path(index)) * torch.exp(step * rate) if active else z

        z = levels[0] * noise
        if self.centre != "point":
            z = pulled(z, 0, levels[1] - levels[0])
        for index, (sigma, following) in enumerate(itertools.pairwise(levels)):
            z = pulled(z + (following - sigma) * eps(denoiser, z, sigma), index + 1, following - sigma)
        return z

    def _centres(self, denoiser: Denoiser, x: Tensor, levels: Tensor, noise: Tensor) -> Callable[[int], Tensor]:
        """The centre at each level, as a function of the level's index; at level 0 it is x."""
        if self.centre == "point":
            return lambda index: x
        if self.centre == "noised":
            return lambda index: x + levels[index] * noise
        states = invert(denoiser, x, levels[:-1].flip(0)).flip(0)
        return lambda index: states[index] if index < self.steps else x


@dataclass(frozen=True, kw_only=True)
class ExactDraw:
    r"""Draws of q by an ordinary sampler on `ExactProduct`.

    At sigma = infinity the product's denoiser is E_q[y] = D(x; l), so the first call, made there, puts the mean of the start right at
    any finite level: z = D(x; l) + sigma_0 n. The levels then need only reach well above the spread of q, which is below l:
    sigma_0 = min(`spread` l, sigma_max), and per item, since l may be.

    Args:
        steps: levels, the infinite one included.
        sigma_min: lowest level before 0 (a tenth of l where that is lower).
        sigma_max: highest finite level.
        spread: finite start level in units of l.
        solver: "heun", 2 steps - 2 calls, or "ddim", as many calls as steps. At 32 calls Heun's draws have q's variance within 4 % for
            Gaussian data, DDIM's 11 % too little; the mean is right with both.
    """

    steps: int = 17
    sigma_min: float = 0.002
    sigma_max: float = 5.0
    spread: float = 10.0
    solver: Solver = "heun"

    def __post_init__(self) -> None:
        check_levels(self.steps - 1, self.sigma_min, self.sigma_max)

    def __call__(self, denoiser: Denoiser, centre: Tensor, bandwidth: Tensor, noise: Tensor) -> Tensor:
        product = ExactProduct(denoiser=denoiser, centre=centre, bandwidth=bandwidth)
        high = (self.spread * bandwidth).clamp(max=self.sigma_max)
        low = (0.1 * bandwidth).clamp(max=self.sigma_min)
        ramp = torch.linspace(0, 1, self.steps - 1, dtype=centre.dtype, device=centre.device)
        ramp = ramp.reshape(-1, *[1] * bandwidth.ndim)
        levels = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7  # Karras' spacing
        z = denoiser(centre, bandwidth) + per_item(high, centre) * noise
        return SOLVERS[self.solver](product, z, torch.cat([levels, torch.zeros_like(levels[:1])]))


@dataclass(frozen=True, kw_only=True)
class ProximalDraw:
    """Draws of q, approximately, by an ordinary sampler on `ProximalProduct`, started around the centre.

    Args:
        steps: levels.
        sigma_min: lowest level before 0.
        sigma_max: level of the start.
        data_std: d, the data's standard deviation (0.5 for the package's densities).
        solver: "ddim" or "heun".
    """

    steps: int = 32
    sigma_min: float = 0.002
    sigma_max: float = 5.0
    data_std: float = 0.5
    solver: Solver = "ddim"

    def __post_init__(self) -> None:
        check_levels(self.steps, self.sigma_min, self.sigma_max)

    def __call__(self, denoiser: Denoiser, centre: Tensor, bandwidth: Tensor, noise: Tensor) -> Tensor:
        product = ProximalProduct(denoiser=denoiser, centre=centre, bandwidth=bandwidth, data_std=self.data_std)
        levels = karras(self.steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max).to(centre)
        return SOLVERS[self.solver](product, centre + levels[0] * noise, levels)
