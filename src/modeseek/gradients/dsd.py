r"""Diverse score distillation (Xu et al. 2024, arXiv:2412.06780): follow the sampling trajectory of a seed's noise.

    z_d  = DDIM from sigma_max n* down to sigma_d,             e = eps_g(z_d; sigma_d)
    g    = w ( eps_g(x + sigma_t e; sigma_t) - eps_c(x + sigma_d e; sigma_d) )

n* is fixed per object, D_g is guided and D_c is not, sigma_t anneals, and sigma_d lies a little above it: u_d = u_t + U[0, 1] 0.1 (u_t -
u_min). So an object converges to the image that DDIM generates from its noise, even if its renders have left the trajectory. If x =
D_g(z_d), then x + sigma_d e = z_d and, without guidance, g = w (eps(x + sigma_t e) - e), which is SDS with the trajectory's own noise.

On the axis u of `levels` (by default Stable Diffusion's timesteps / 999): u_t falls from 0.98 to 0.32 with the square root of the
progress, weight 1 - alpha_bar, DDIM on ten equal steps of u. The released code starts DDIM from z = n at t = 999 in its own state, that is
from sqrt(1 + sigma^2) n. Calls: up to `steps` for the trajectory, and 3. The trajectory does not depend on x.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser, per_item
from modeseek.core.errors import InvalidInput
from modeseek.core.sampling import ddim
from modeseek.gradients.base import Estimate, NoisePolicy, check_point, generator_for, in_full_precision, noise_like, residual
from modeseek.gradients.ism import all_timesteps
from modeseek.gradients.noise_levels import NoiseLevels


@dataclass(frozen=True, kw_only=True)
class DSD:
    """Diverse score distillation; a `Gradient` of 3 to steps + 3 denoiser calls.

    Args:
        denoiser: D_g, guided.
        unguided: D_c of the same prompt without guidance; None: the same denoiser.
        levels: time axis u and weight.
        anneal: u_t at progress 0 and 1.
        excess: largest (u_d - u_t)/(u_t - anneal[1]).
        steps: DDIM steps from u = 1 to 0; only those above u_d are taken.
        noise: "fixed" per object, as published; "shared" or "fresh".
        seed: of the noise.

    Raises:
        InvalidInput: numbers outside these ranges.
    """

    denoiser: Denoiser
    unguided: Denoiser | None = None
    levels: NoiseLevels = field(default_factory=lambda: all_timesteps("dreamfusion"))
    anneal: tuple[float, float] = (0.98, 0.32)
    excess: float = 0.1
    steps: int = 10
    noise: NoisePolicy = "fixed"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.anneal[1] <= self.anneal[0] <= 1 or self.steps < 1 or self.excess < 0:
            raise InvalidInput(f"DSD needs 1 >= anneal[0] >= anneal[1] >= 0, steps >= 1 and excess >= 0, got {self.anneal}, {self.steps}")

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        guided, unguided = Counted(self.denoiser), Counted(self.unguided or self.denoiser)
        u_t = self.anneal[0] + (self.anneal[1] - self.anneal[0]) * progress**0.5
        excess = self.excess * (u_t - self.anneal[1]) * torch.rand(len(x), dtype=torch.float64, generator=rng)
        u_d = (u_t + excess).clamp(max=1.0)
        grid = 1 - torch.arange(self.steps, dtype=torch.float64) / self.steps
        grid = grid[grid > u_d.min()][:, None]
        levels = self.levels.quantile(torch.cat([torch.maximum(grid, u_d), u_d[None]])).to(x)  # falling, (count + 1, batch)
        sigma_t, sigma_d = self.levels.quantile(torch.full_like(u_d, u_t)).to(x), levels[-1]
        n = noise_like(x, 1, self.noise, generator_for(self.noise, self.seed, rng))
        z = ddim(guided, per_item(levels[0], x) * n, levels)
        e = (z - guided(z, sigma_d)) / per_item(sigma_d, x)
        here = (x - guided(x + per_item(sigma_t, x) * e, sigma_t)) / per_item(sigma_t, x)
        there = (x - unguided(x + per_item(sigma_d, x) * e, sigma_d)) / per_item(sigma_d, x)
        weight = per_item(self.levels.weigh(sigma_t), x)
        target = x - per_item(sigma_t, x) * (here - there)
        calls = float(guided.calls + unguided.calls)
        return Estimate(weight * (here - there), target, {"calls": calls, "residual": residual(x, target), "sigma": sigma_t})
