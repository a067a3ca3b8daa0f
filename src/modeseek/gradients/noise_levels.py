r"""Noise levels and weights of score distillation, and how both follow the progress of a run.

`distribution` maps u in [0, 1] to a noise level in [low, high]:

    uniform      linear in sigma
    loguniform   linear in log sigma
    karras       linear in sigma^(1/7), the time of the samplers (Karras et al. 2022)
    timestep     Stable Diffusion's discrete levels in the range, as in every published setting on Stable Diffusion
    flow         linear in t = sigma/(1 + sigma), the time of rectified flows

`anneal` selects how u is chosen. "none": u ~ U[0, 1], fresh for each item. Otherwise one deterministic level per step:

    linear       u = 1 - progress
    sqrt         u = 1 - sqrt(progress)                       HiFA (Zhu & Zhuang 2023, arXiv:2305.18766): t from 980 to 300
    dreamtime    the share of W above t(u) is progress        DreamTime (Huang et al. 2023, arXiv:2306.12422):
                 W(t) ~ sigma_t exp(-(t - 800)^2 / (2 300^2))

`weight` is w(sigma) in the gradient w (x - D)/sigma: "eps" 1; "x0" sigma, the gradient of |x - D|^2/2; "dreamfusion"
sigma^2/(1 + sigma^2), DreamFusion's 1 - alpha_bar; "flow" 1 + sigma, the velocity residual of a rectified flow. Levels are
standard deviations per coordinate of x.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from modeseek.core.denoiser import DiscreteLevels
from modeseek.core.errors import InvalidInput
from modeseek.core.schedules import stable_diffusion_levels

Distribution = Literal["uniform", "loguniform", "karras", "timestep", "flow"]
Anneal = Literal["none", "linear", "sqrt", "dreamtime"]
Weight = Literal["eps", "x0", "dreamfusion", "flow"]


@dataclass(frozen=True, kw_only=True)
class NoiseLevels:
    """Distribution of sigma, weight of each level, and schedule over progress.

    Args:
        low: lowest sigma.
        high: highest sigma.
        distribution: time axis between them, see the module's table.
        weight: w(sigma).
        anneal: "none", or the schedule that replaces random levels by one level per step.
        centre: of DreamTime's weights, in timesteps.
        spread: of DreamTime's weights, in timesteps.
        table: the levels of "timestep"; None: Stable Diffusion's.

    Raises:
        InvalidInput: low and high do not satisfy 0 < low <= high, an unknown name, or "dreamtime" without timesteps.

    Example:
        >>> levels = NoiseLevels(low=0.1, high=0.2, weight="x0")
        >>> sigma = levels.sample(4, torch.Generator().manual_seed(0))
        >>> bool(((sigma >= 0.1) & (sigma <= 0.2)).all()), bool((levels.weigh(sigma) == sigma).all())
        (True, True)
        >>> NoiseLevels(low=1.0, high=3.0, anneal="sqrt").sample(2, torch.Generator(), progress=0.25)
        tensor([2., 2.], dtype=torch.float64)
    """

    low: float = 0.002
    high: float = 5.0
    distribution: Distribution = "uniform"
    weight: Weight = "eps"
    anneal: Anneal = "none"
    centre: float = 800.0
    spread: float = 300.0
    table: DiscreteLevels | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise InvalidInput(f"noise levels need 0 < low <= high, got {self.low} and {self.high}")
        for name, choices in (("distribution", Distribution), ("weight", Weight), ("anneal", Anneal)):
            value, known = getattr(self, name), choices.__args__  # type: ignore[attr-defined]
            if value not in known:
                raise InvalidInput(f"{name} {value!r} is unknown: choose {', '.join(known)}")
        if self.anneal == "dreamtime" and (self.distribution != "timestep" or self.spread <= 0):
            raise InvalidInput("DreamTime's weights are stated in timesteps: give distribution='timestep' and a positive spread")

    def sample(self, count: int, rng: torch.Generator, progress: float = 0.0) -> Tensor:
        """`count` levels in float64 at a progress in [0, 1]: (count,). Annealed levels use no randomness."""
        if self.anneal == "none":
            u = torch.rand(count, dtype=torch.float64, generator=rng)
            if self.distribution != "timestep":
                return self.quantile(u)
            inside = self._timesteps()
            return inside[(u * len(inside)).long()]
        return self.quantile(torch.tensor(self.time(progress), dtype=torch.float64)).expand(count)

    def time(self, progress: float) -> float:
        """u of an annealed run at a progress in [0, 1]; 1 is `high`.

        Raises:
            InvalidInput: the levels are random.
        """
        if self.anneal == "none":
            raise InvalidInput("random levels have no time: choose anneal linear, sqrt or dreamtime")
        if self.anneal == "dreamtime":
            return self._dreamtime(progress)
        return 1 - (progress if self.anneal == "linear" else progress**0.5)

    def quantile(self, u: Tensor) -> Tensor:
        """The level at each u of [0, 1] on the time axis of the distribution: same shape, increasing, float64."""
        u = u.double().clamp(0, 1)
        if self.distribution == "timestep":
            table = self.table or stable_diffusion_levels()
            ends = torch.tensor([self.low, self.high], dtype=torch.float64)
            first, last = table.timestep(ends)
            return table.sigma(torch.lerp(first, last, u))
        if self.distribution == "loguniform":
            return self.low * (self.high / self.low) ** u
        if self.distribution == "flow":
            low, high = self.low / (1 + self.low), self.high / (1 + self.high)
            t = low + u * (high - low)
            return t / (1 - t)
        power = 1.0 if self.distribution == "uniform" else 7.0
        return (self.low ** (1 / power) + u * (self.high ** (1 / power) - self.low ** (1 / power))) ** power

    def weigh(self, sigma: Tensor) -> Tensor:
        """w(sigma), same shape."""
        if self.weight == "x0":
            return sigma
        if self.weight == "flow":
            return 1 + sigma
        return sigma**2 / (1 + sigma**2) if self.weight == "dreamfusion" else torch.ones_like(sigma)

    def _dreamtime(self, progress: float) -> float:
        """u at which the share of W at or above t is nearest to `progress` (Huang et al. 2023, Eq. 7)."""
        inside = self._timesteps()
        t = (self.table or stable_diffusion_levels()).timestep(inside)
        weights = inside * torch.exp(-((t - self.centre) ** 2) / (2 * self.spread**2))
        shares = weights.flip(0).cumsum(0).flip(0) / weights.sum()  # falling from 1
        return int((shares - progress).abs().argmin()) / max(len(shares) - 1, 1)

    def _timesteps(self) -> Tensor:
        return _inside(self.low, self.high, self.table)


def _inside(low: float, high: float, table: DiscreteLevels | None = None) -> Tensor:
    """The levels of a table, Stable Diffusion's by default, within [low, high].

    Raises:
        InvalidInput: there is none.
    """
    sigmas = (table or stable_diffusion_levels()).sigmas
    found = sigmas[(sigmas >= low * (1 - 1e-9)) & (sigmas <= high * (1 + 1e-9))]
    if len(found) == 0:
        raise InvalidInput(f"no timestep of Stable Diffusion has a level in [{low:g}, {high:g}]: its levels span 0.029 to 14.6")
    return found
