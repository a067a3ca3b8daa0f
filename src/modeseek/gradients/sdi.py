r"""Score distillation via inversion (Lukoianov et al. 2024, arXiv 2405.15891).

    g = x - D(x*_sigma; sigma),   x*_sigma the DDIM inversion of x up to sigma,   sigma annealed from high to low

The inversion replaces the random noise of SDS by the noise that DDIM would have denoised into x. The prior is guided at scale s, the
inversion at -s.

`as_published=True` reproduces the public code (threestudio at 28d9d80, `stable_diffusion_sdi_guidance.py`), which differs from the paper:

    1. t is an integer. The first call is made at t_0 = 1 - 1000/steps (-99), with x taken as the network's own variance-preserving state
       z = a y + b n at the lowest level; then t = 1, 101, 201, ... below t.
    2. The inversion ends at t + delta, delta uniform on {0, ..., 1000/steps - 1}, and the network is called with the state z unchanged and
       with t. In the coordinate x = z / a of this package the state is therefore multiplied by a_{t+delta} / a_t.
    3. With `eta` > 0 each step adds eta sqrt(v) n to z, v = (1 - a_lo^2)/(1 - a_hi^2) (1 - a_hi^2/a_lo^2), without shortening the
       direction to x_t. The code's configuration has eta = 0.3.

Not reproduced: the code divides the loss by the batch and by the number of latent values, and works at batch size 1 only.

Cost in denoiser calls: `steps` + 1 on the grid "karras"; on the grid "timestep" one call per grid level below t and one for the target;
`as_published` one more (5, 7 and 12 calls at t = 250, 500 and 980 with 10 steps).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from modeseek.core.checks import check_choice
from modeseek.core.denoiser import Denoiser, DiscreteLevels, eps, per_item
from modeseek.core.errors import InvalidInput
from modeseek.core.schedules import stable_diffusion_levels
from modeseek.gradients.base import Estimate, check_point, in_full_precision, normal_like, residual


@dataclass(frozen=True, kw_only=True)
class SDI:
    """Score distillation via inversion; a `Gradient`.

    Args:
        denoiser: D of the (guided) prior.
        start: sigma at progress 0.
        end: sigma at progress 1.
        spacing: how sigma falls with progress: "linear"; "karras", linear in sigma^(1/7); or "timestep", linear in the timesteps of
            `table`, as published.
        grid: levels of the inversion: "karras", from `lowest` sigma up to sigma in Karras' spacing, or "timestep", as published: every
            1000 / steps timesteps of `table` from t = 1, where x is taken as the state, and then sigma itself.
        steps: DDIM steps of the inversion; on the grid "timestep", those of an inversion up to t = 1000.
        lowest: first level of the grid "karras" in units of sigma; x is taken as the state there. Off the data the inversion diverges, by
            about 1 / lowest times the distance to the data.
        inversion: the denoiser used in the inversion, guided at the negative scale; None: `denoiser`.
        eta: noise added in each step of the inversion; 0.3 in the published configuration.
        as_published: reproduce the public code (see the module's docstring). Needs spacing and grid "timestep".
        first: the denoiser of the published code's first call, at t_0 < 0; it must have the level of t = 0. None: `inversion` at that
            level, that is the network at t = 0.
        table: noise levels of the timesteps; those of the prior's scheduler where it has one.

    Raises:
        InvalidInput: a number out of range, or `as_published` on another grid.
    """

    denoiser: Denoiser
    start: float = 5.0
    end: float = 0.01
    spacing: Literal["linear", "karras", "timestep"] = "linear"
    grid: Literal["karras", "timestep"] = "karras"
    steps: int = 10
    lowest: float = 0.5
    inversion: Denoiser | None = None
    eta: float = 0.0
    as_published: bool = False
    first: Denoiser | None = None
    table: DiscreteLevels = field(default_factory=stable_diffusion_levels, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.end <= self.start or not 0 < self.lowest < 1 or self.eta < 0:
            raise InvalidInput(
                "SDI needs steps >= 1, 0 < end <= start, 0 < lowest < 1 and eta >= 0, got "
                f"{self.steps}, {self.end}, {self.start}, {self.lowest}, {self.eta}"
            )
        check_choice("spacing", self.spacing, ("linear", "karras", "timestep"))
        check_choice("grid", self.grid, ("karras", "timestep"))
        if self.as_published and not self.spacing == self.grid == "timestep":
            words = f"as_published needs the grid and the schedule in timesteps, got {self.grid!r} and {self.spacing!r}"
            raise InvalidInput(f"{words}; leave as_published=False for another grid")

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        level = self._level(progress)
        sigma, levels = x.new_tensor(level), self._inversion_levels(level, x, rng)
        inversion = self.inversion or self.denoiser
        first = self.first or inversion if self.as_published else inversion
        state = x * per_item((1 + levels[0] ** 2).sqrt(), x) if self.as_published else x
        for index, (low, high) in enumerate(itertools.pairwise(levels)):
            state = state + per_item(high - low, x) * eps(inversion if index else first, state, low)
            if self.eta > 0:
                state = state + per_item(self.eta * posterior_deviation(low, high), x) * normal_like(x, rng)
        if self.as_published:  # the state stays at levels[-1] and the network is called with t: z is shared, x = z / a is not
            state = state * per_item(((1 + sigma**2) / (1 + levels[-1] ** 2)).sqrt(), x)
        target = self.denoiser(state, sigma)
        info: dict[str, Tensor | float] = {"calls": float(len(levels)), "residual": residual(x, target), "sigma": sigma.expand(len(x))}
        return Estimate(x - target, target, info)

    def _inversion_levels(self, sigma: float, x: Tensor, rng: torch.Generator) -> Tensor:
        """Levels of the inversion up to sigma, or beyond it as published: (levels, batch)."""
        if self.grid == "timestep":
            t = float(self.table.timestep(torch.tensor(sigma, dtype=torch.float64)))
            ratio = 1000 // self.steps if self.as_published else 1000 / self.steps
            below = 1 + torch.arange(inversion_steps(t, self.steps), dtype=torch.float64) * ratio
            top = torch.full((len(x),), t, dtype=torch.float64)
            if self.as_published:
                below = torch.cat([below.new_zeros(1), below])  # alphas_cumprod[0] stands for t_0 < 0
                excess = torch.rand(len(x), generator=rng, dtype=torch.float64)
                top = (top.round() + (excess * ratio).floor()).clamp(max=999)
            levels = self.table.sigma(torch.cat([below[:, None].expand(-1, len(x)), top[None]]))
            return levels.to(x)
        ramp = torch.linspace(0, 1, self.steps + 1).to(x)[:, None].expand(-1, len(x))
        return sigma * (self.lowest ** (1 / 7) + ramp * (1 - self.lowest ** (1 / 7))) ** 7  # Karras' spacing

    def _level(self, progress: float) -> float:
        """sigma at a progress in [0, 1]."""
        if self.spacing == "timestep":
            first, last = self.table.timestep(torch.tensor([self.start, self.end], dtype=torch.float64)).tolist()
            t = first + (last - first) * progress
            if self.as_published:
                t = math.floor(t + 1e-6)
            return float(self.table.sigma(torch.tensor(t, dtype=torch.float64)))
        power = 1.0 if self.spacing == "linear" else 7.0
        low, high = self.end ** (1 / power), self.start ** (1 / power)
        return (high + (low - high) * progress) ** power


def posterior_deviation(low: Tensor, high: Tensor) -> Tensor:
    r"""$\sqrt{v}/a_{hi}$: the deviation of DDPM's posterior noise between two levels, in the coordinate x of the higher one.

    With $a = 1/\sqrt{1+\sigma^2}$, $v/a_{hi}^2 = \frac{\sigma_{lo}^2}{\sigma_{hi}^2}(\sigma_{hi}^2-\sigma_{lo}^2)
    \frac{1+\sigma_{hi}^2}{1+\sigma_{lo}^2}$.

    Example:
        >>> posterior_deviation(torch.tensor(1.0), torch.tensor(1.0))
        tensor(0.)
    """
    return low / high * ((high**2 - low**2).clamp_min(0) * (1 + high**2) / (1 + low**2)).sqrt()


def inversion_steps(t: float, steps: int) -> int:
    """DDIM steps from t = 1 up to `t` on a grid of 1000 / steps timesteps, the last one shorter; `as_published` makes one more.

    Example:
        >>> inversion_steps(980, 10), inversion_steps(500, 10), inversion_steps(250, 10)
        (10, 5, 3)
    """
    return max(1, math.ceil((t - 1) * steps / 1000 - 1e-6))
