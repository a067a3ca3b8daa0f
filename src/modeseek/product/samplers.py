r"""Samplers of the product density $q(y|x) \propto p(y) N(y; x, \ell^2 I)$: the paper's two, the exact and the proximal one.

Every sampler is called as `sampler(denoiser, centre, bandwidth, noise) -> y`. The noise is N(0, I), shaped like the centre, and the only
source of randomness. With z the state, sigma its level and x the centre:

    EulerSampler      z <- z + dsigma (eps(z; sigma) + (z - x)/l^2)            Eq. 12, as published
    SplitSampler      z' = DDIM step of z; z <- c + (z' - c) exp(dsigma/l^2)   Eqs. 14-15 and Algorithm 2, as published
    ExactSampler      DDIM or Heun on `ExactProduct`                           exact in the limit of many steps
    ProximalSampler   DDIM or Heun on `ProximalProduct`                        exact for Gaussian data

In Eq. 12 the printed sign of the kernel term pushes away from x; the sign here pulls. The explicit step is unstable once
|dsigma| > l^2. The split step is stable, but exp(-sigma_max/l^2) damps the start noise to zero: y is a deterministic function of x and
not a sample of q (docs: "Where the paper slips"). Each costs `steps` denoiser calls with DDIM, unless stated otherwise. The reverse process
of the model as a sampler of q is in `modeseek.product.reverse`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modeseek.core.checks import check_choice, check_number
from modeseek.core.denoiser import Denoiser, DiscreteLevels, eps, per_item
from modeseek.core.errors import InvalidInput
from modeseek.core.sampling import ddim, heun, invert
from modeseek.core.schedules import check_levels, karras
from modeseek.product.denoisers import ExactProduct, ProximalProduct

SOLVERS = {"ddim": ddim, "heun": heun}
Solver = Literal["ddim", "heun"]
ProductSampler = Callable[[Denoiser, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class EulerSampler:
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
class SplitSampler:
    r"""Eqs. 14-15 as published: a DDIM step, then exponential decay towards the centre with time constant l^2.

    Time is sigma in the two-dimensional experiments. With Stable Diffusion it counts 1000 timesteps (l from 1e3 to 1e-2, Fig. 5):
    give `timesteps`. Algorithm 2 ("stable") is then `SplitSampler(centre="inverted", timesteps=..., sigma_max=math.inf, verbatim=True)`;
    without `verbatim` its centre is noised to the level of the state that it pulls, as section 4.3 says in words.

    Args:
        steps: DDIM steps.
        sigma_min: lowest level before 0; with `timesteps` the spacing decides.
        sigma_max: level of the start; with `timesteps` the highest of them at or below it.
        centre: "point": decay towards x itself (Eq. 15). "noised": towards x + sigma n, "inverted": towards x's DDIM inversion at
            each level, both with the blended start of Algorithm 2; "inverted" costs `steps` - 1 calls more.
        interval: (lo, hi), the levels at which the kernel acts.
        timesteps: a discrete network's levels; the steps are evenly spaced in its timesteps, and l^2 is measured in them.
        verbatim: Algorithm 2 as printed, in Stable Diffusion's state z = a y + b n: towards the centre of the level that a step leaves
            (z*_t for z_{t-1}), from eps ~ N(0, I).
    """

    steps: int = 32
    sigma_min: float = 0.002
    sigma_max: float = 5.0
    centre: Literal["point", "noised", "inverted"] = "point"
    interval: tuple[float, float] = (0.0, math.inf)
    timesteps: DiscreteLevels | None = None
    verbatim: bool = False

    def __post_init__(self) -> None:
        check_levels(self.steps, self.sigma_min, self.sigma_max)
        check_choice("centre", self.centre, ("point", "noised", "inverted"))
        if self.timesteps is not None and self.steps > self._count(self.timesteps):
            raise InvalidInput(
                f"{self.steps} steps do not fit the {self._count(self.timesteps)} timesteps up to sigma_max={self.sigma_max:g}"
            )

    def __call__(self, denoiser: Denoiser, centre: Tensor, bandwidth: Tensor, noise: Tensor) -> Tensor:
        levels, time = (values.to(centre) for values in self._levels())
        path = self._centres(denoiser, centre, levels, noise)
        lr = per_item(bandwidth, centre) ** -2

        def pulled(z: Tensor, index: int, step: Tensor) -> Tensor:
            active = self.interval[0] <= float(levels[index]) <= self.interval[1]
            return path(index) + (z - path(index)) * torch.exp(step * lr) if active else z

        z = (1 + levels[0] ** 2).sqrt() * noise if self.verbatim else levels[0] * noise
        if self.centre != "point":
            z = pulled(z, 0, time[1] - time[0])
        for index, (sigma, following) in enumerate(itertools.pairwise(levels)):
            z = pulled(z + (following - sigma) * eps(denoiser, z, sigma), index + 1, time[index + 1] - time[index])
        return z

    def _count(self, timesteps: DiscreteLevels) -> int:
        return int((timesteps.sigmas <= self.sigma_max * (1 + 1e-6)).sum())

    def _levels(self) -> tuple[Tensor, Tensor]:
        """Levels and the kernel's time at them, both (steps + 1,) and falling; the clean state is at timestep -1."""
        if self.timesteps is None:
            levels = karras(self.steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max)
            return levels, levels
        count = self._count(self.timesteps)
        time = (count - torch.arange(self.steps + 1) * count / self.steps).round().long() - 1  # DDIM's "trailing" spacing
        levels = self.timesteps.sigmas[time[:-1].cpu()]
        return torch.cat([levels, levels.new_zeros(1)]), time

    def _centres(self, denoiser: Denoiser, x: Tensor, levels: Tensor, noise: Tensor) -> Callable[[int], Tensor]:
        """What the state at each level is pulled towards, as a function of the level's index; at level 0 it is x, unless `verbatim`."""
        if self.centre == "inverted":
            states = torch.cat([invert(denoiser, x, levels[:-1].flip(0)).flip(0), x[None]])
        noisy = {"point": lambda i: x, "noised": lambda i: x + levels[i] * noise, "inverted": lambda i: states[i]}[self.centre]
        if not self.verbatim:
            return noisy
        scale = (1 + levels**2).rsqrt()  # a, with z = a (y + sigma n)

        def left_behind(index: int) -> Tensor:
            left = max(index - 1, 0)
            return (1 if self.centre == "point" else scale[left]) * noisy(left) / scale[index]

        return left_behind


@dataclass(frozen=True, kw_only=True)
class ExactSampler:
    r"""Draws of q by an ordinary sampler on `ExactProduct`.

    At sigma = infinity the product's denoiser is E_q[y] = D(x; l), so the first call, made there, centres the start at any finite level:
    z = D(x; l) + sigma_0 n. The levels follow the bandwidth: sigma_0 = `spread` l for each item. They are not limited by the range of
    the network, which is evaluated at s = sigma l / sqrt(sigma^2 + l^2) < l. A start that is not far above the distances between the
    modes of q gives the modes wrong shares: in 64 dimensions a start at 5 l gives a mode half its share, one at 10 l the right one.

    Args:
        steps: levels, the infinite one included.
        sigma_min: lowest level before 0, per coordinate (a tenth of l where that is lower).
        spread: finite start level in units of l; below 10 raises, because the shares of modes are then wrong.
        solver: "heun", 2 steps - 2 calls, or "ddim", as many calls as steps. At 32 calls Heun's draws have q's variance within 4 % for
            Gaussian data, DDIM's 11 % too little; the mean is right with both.
        sigma_max: highest level at which the network was trained: a bandwidth above it raises.

    Raises:
        InvalidInput: numbers out of range; called, a bandwidth above `sigma_max`.
    """

    steps: int = 17
    sigma_min: float = 0.002
    spread: float = 10.0
    solver: Solver = "heun"
    sigma_max: float = math.inf

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise InvalidInput(f"exact draws need at least 2 steps, got {self.steps}")
        check_levels(self.steps - 1, self.sigma_min, self.sigma_max)
        check_choice("solver", self.solver, tuple(SOLVERS))
        if self.spread < 10:
            raise InvalidInput(
                f"exact draws need a start of at least 10 bandwidths, got spread={self.spread}: modes would get wrong shares"
            )

    def __call__(self, denoiser: Denoiser, centre: Tensor, bandwidth: Tensor, noise: Tensor) -> Tensor:
        check_reach(bandwidth, self.sigma_max)
        product = ExactProduct(denoiser=denoiser, centre=centre, bandwidth=bandwidth)
        levels = levels_near(bandwidth, self.steps - 1, sigma_min=self.sigma_min, spread=self.spread)
        z = denoiser(centre, bandwidth) + per_item(levels[0], centre) * noise
        return SOLVERS[self.solver](product, z, levels)


@dataclass(frozen=True, kw_only=True)
class ProximalSampler:
    """Draws of q, approximately, by an ordinary sampler on `ProximalProduct`, started around the centre: z = c + sigma_0 n.

    The error of the start is of relative size (l / sigma_0)^2, so levels far above l do not matter for a small l. With `spread`, the few
    levels that an image prior can afford are placed near l.

    Args:
        steps: levels.
        sigma_min: lowest level before 0 (with `spread`, a tenth of l where that is lower).
        sigma_max: level of the start; an image prior's is `prior.sigmas[1]`.
        data_std: d, the data's standard deviation (0.5 for the package's densities; an image prior's is `prior.data_std`).
        spread: start at min(spread l, sigma_max), for each item; None: at sigma_max.
        solver: "ddim" or "heun".
    """

    steps: int = 32
    sigma_min: float = 0.002
    sigma_max: float = 5.0
    data_std: float = 0.5
    spread: float | None = None
    solver: Solver = "ddim"

    def __post_init__(self) -> None:
        check_levels(self.steps, self.sigma_min, self.sigma_max)
        check_spread(self.spread)
        check_choice("solver", self.solver, tuple(SOLVERS))
        check_number("data_std", self.data_std, above=0)

    def __call__(self, denoiser: Denoiser, centre: Tensor, bandwidth: Tensor, noise: Tensor) -> Tensor:
        product = ProximalProduct(denoiser=denoiser, centre=centre, bandwidth=bandwidth, data_std=self.data_std)
        levels = self.levels(bandwidth.to(centre))
        return SOLVERS[self.solver](product, centre + per_item(levels[0], centre) * noise, levels)

    def levels(self, bandwidth: Tensor) -> Tensor:
        """Those of a draw, ending in 0: (steps + 1,), with `spread` (steps + 1, *bandwidth.shape)."""
        if self.spread is None:
            return karras(self.steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max).to(bandwidth)
        return levels_near(bandwidth, self.steps, sigma_min=self.sigma_min, sigma_max=self.sigma_max, spread=self.spread)


def levels_near(bandwidth: Tensor, steps: int, *, sigma_min: float, spread: float, sigma_max: float = math.inf) -> Tensor:
    """Karras' levels from min(spread l, sigma_max) to min(0.1 l, sigma_min), then 0: (steps + 1, *bandwidth.shape).

    Example:
        >>> levels_near(torch.tensor([0.1, 1.0]), 2, sigma_min=0.05, sigma_max=5.0, spread=10.0)
        tensor([[1.0000, 5.0000],
                [0.0100, 0.0500],
                [0.0000, 0.0000]])
    """
    high = (spread * bandwidth).clamp(max=sigma_max)
    low = (0.1 * bandwidth).clamp(max=sigma_min)
    ramp = torch.linspace(0, 1, steps, dtype=bandwidth.dtype, device=bandwidth.device).reshape(-1, *[1] * bandwidth.ndim)
    levels = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    return torch.cat([levels, torch.zeros_like(levels[:1])])


def check_reach(bandwidth: Tensor, sigma_max: float) -> None:
    """Raise `InvalidInput` if a bandwidth lies above the highest level of the network."""
    if float(bandwidth.max()) > sigma_max * (1 + 1e-6):
        raise InvalidInput(f"bandwidth {float(bandwidth.max()):.4g} lies above {sigma_max:.4g}, the highest level of the network: lower it")


def check_spread(spread: float | None) -> None:
    """Raise `InvalidInput` unless the start lies at or above the bandwidth."""
    if spread is not None and spread < 1:
        raise InvalidInput(f"a sampler of the product starts at least one bandwidth up, got spread={spread}")
