r"""Score distillation via inversion (Lukoianov et al. 2024).

    g = x - D(x*_sigma; sigma),   x*_sigma the DDIM inversion of x up to sigma,   sigma annealed from high to low

Inversion finds the noise that DDIM would have denoised into x, in place of fresh noise; there is no other randomness. Where the prior
is guided at scale s, it is inverted at -s. Cost: `steps` calls for the inversion, fewer at low noise on the published grid, and one for
the target. The published code (threestudio, pull request 508) inverts to t + delta with delta uniform in [0, 99] of 1000 steps and then
asks the network at t without moving the state back: `as_published` does the same, with the state at a level higher by up to a tenth of
the range. It works at batch size 1 only; ours at any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser
from modeseek.core.errors import InvalidInput
from modeseek.core.sampling import invert
from modeseek.core.schedules import stable_diffusion_levels
from modeseek.gradients.base import Estimate, check_point, residual


@dataclass(frozen=True, kw_only=True)
class SDI:
    """Score distillation via inversion; a `Gradient` of steps + 1 denoiser calls.

    Args:
        denoiser: D of the (guided) prior.
        start: sigma at progress 0.
        end: sigma at progress 1.
        spacing: how sigma falls with progress: "linear", "karras", linear in sigma^(1/7), the time of the samplers, or "timestep",
            linear in Stable Diffusion's timesteps, as published.
        grid: levels of the inversion: "karras", from `lowest` sigma up in Karras' spacing, or "timestep", as published: every
            1000 / steps timesteps of Stable Diffusion from t = 1, where the clean x is taken, and then sigma itself.
        steps: DDIM steps of the inversion; on the grid "timestep" those of one up to t = 1000, of which sigma takes its share.
        lowest: first level of the grid "karras" in units of sigma, for which the clean x is taken. Off the data the inversion runs away, by
            about 1 / lowest times the distance to them; at 0.1 our learned 2-D nets are lost there.
        inversion: the denoiser that inverts, where it differs (SDI inverts with a negative guidance scale); None: the same.
        as_published: leave the state above the level at which the network is asked, as the published code does.
    """

    denoiser: Denoiser
    start: float = 5.0
    end: float = 0.01
    spacing: Literal["linear", "karras", "timestep"] = "linear"
    grid: Literal["karras", "timestep"] = "karras"
    steps: int = 10
    lowest: float = 0.5
    inversion: Denoiser | None = None
    as_published: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.end <= self.start or not 0 < self.lowest < 1:
            raise InvalidInput(
                f"SDI needs steps >= 1, 0 < end <= start and 0 < lowest < 1, got {self.steps}, {self.end}, {self.start}, {self.lowest}"
            )

    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        level = self._level(progress)
        sigma = x.new_tensor(level)
        excess = torch.rand(len(x), generator=rng).to(x) if self.as_published else x.new_zeros(len(x))
        levels = self._inverted(level, excess)
        denoiser, inversion = Counted(self.denoiser), Counted(self.inversion or self.denoiser)
        state = invert(inversion, x, levels)[-1]
        target = denoiser(state, sigma)
        calls = float(denoiser.calls + inversion.calls)
        info: dict[str, Tensor | float] = {"calls": calls, "residual": residual(x, target), "sigma": sigma.expand(len(x))}
        return Estimate(x - target, target, info)

    def _inverted(self, sigma: float, excess: Tensor) -> Tensor:
        """Levels of the inversion up to sigma, (levels, batch); `excess`, in [0, 1), is how far beyond sigma each item ends."""
        if self.grid == "timestep":
            table = stable_diffusion_levels()
            t = float(table.timestep(torch.tensor(sigma, dtype=torch.float64)))
            below = 1 + torch.arange(inversion_steps(t, self.steps), dtype=torch.float64) * (1000 / self.steps)
            last = table.sigma((t + 99 * excess.double().cpu()).clamp(max=999))
            return torch.cat([table.sigma(below)[:, None].expand(-1, len(excess)), last[None]]).to(excess)
        top = sigma + 0.1 * self.start * excess
        ramp = torch.linspace(0, 1, self.steps + 1).to(excess)[:, None]
        return top * (self.lowest ** (1 / 7) + ramp * (1 - self.lowest ** (1 / 7))) ** 7  # Karras' spacing

    def _level(self, progress: float) -> float:
        """sigma at a progress in [0, 1]."""
        if self.spacing == "timestep":
            levels = stable_diffusion_levels()
            first, last = levels.timestep(torch.tensor([self.start, self.end], dtype=torch.float64)).tolist()
            return float(levels.sigma(torch.tensor(first + (last - first) * progress, dtype=torch.float64)))
        power = 1.0 if self.spacing == "linear" else 7.0
        low, high = self.end ** (1 / power), self.start ** (1 / power)
        return (high + (low - high) * progress) ** power


def inversion_steps(t: float, steps: int) -> int:
    """DDIM steps from t = 1 up to `t` where the whole way takes `steps`: every 1000 / steps timesteps, and a last one to t.

    Example:
        >>> inversion_steps(980, 10), inversion_steps(250, 10)
        (10, 3)
    """
    return max(1, math.ceil((t - 1) * steps / 1000 - 1e-6))
