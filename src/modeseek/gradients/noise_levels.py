r"""Random noise levels and weights of score distillation.

Distributions of sigma on [lo, hi]: "uniform" in sigma, "loguniform", "karras", uniform in sigma^(1/7) (the time of the samplers), or
"timestep", uniform over Stable Diffusion's discrete levels in the range, the distribution of every published setting on Stable Diffusion.
Weights w(sigma) of the gradient w (x - D)/sigma: "eps" 1, "x0" sigma (the gradient of |x - D|^2/2), "dreamfusion"
sigma^2/(1 + sigma^2), which is DreamFusion's 1 - alpha_bar. threestudio's 100 for the guidance scale is our 101.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput
from modeseek.core.schedules import stable_diffusion_levels


@dataclass(frozen=True, kw_only=True)
class NoiseLevels:
    """The distribution of sigma and the weight of each level.

    Example:
        >>> levels = NoiseLevels(low=0.1, high=0.2, weight="x0")
        >>> sigma = levels.sample(4, torch.Generator().manual_seed(0))
        >>> bool(((sigma >= 0.1) & (sigma <= 0.2)).all()), bool((levels.weigh(sigma) == sigma).all())
        (True, True)
    """

    low: float = 0.002
    high: float = 5.0
    distribution: Literal["uniform", "loguniform", "karras", "timestep"] = "uniform"
    weight: Literal["eps", "x0", "dreamfusion"] = "eps"

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise InvalidInput(f"noise levels need 0 < low <= high, got {self.low} and {self.high}")
        if self.distribution not in ("uniform", "loguniform", "karras", "timestep"):
            raise InvalidInput(f"distribution {self.distribution!r} is unknown: choose uniform, loguniform, karras or timestep")
        if self.weight not in ("eps", "x0", "dreamfusion"):
            raise InvalidInput(f"weight {self.weight!r} is unknown: choose eps, x0 or dreamfusion")

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """`count` levels in float64: (count,)."""
        u = torch.rand(count, dtype=torch.float64, generator=rng)
        if self.distribution == "timestep":
            sigmas = stable_diffusion_levels().sigmas
            inside = sigmas[(sigmas >= self.low * (1 - 1e-9)) & (sigmas <= self.high * (1 + 1e-9))]
            return inside[(u * len(inside)).long()]
        if self.distribution == "loguniform":
            return self.low * (self.high / self.low) ** u
        power = 1.0 if self.distribution == "uniform" else 7.0
        return (self.low ** (1 / power) + u * (self.high ** (1 / power) - self.low ** (1 / power))) ** power

    def weigh(self, sigma: Tensor) -> Tensor:
        """w(sigma), same shape."""
        if self.weight == "x0":
            return sigma
        return sigma**2 / (1 + sigma**2) if self.weight == "dreamfusion" else torch.ones_like(sigma)
