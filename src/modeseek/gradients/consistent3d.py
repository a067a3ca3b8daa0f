r"""Consistent3D (Wu et al. 2024, arXiv:2401.09050), as released: two neighbouring levels of one ODE trajectory with one fixed noise.

    z_t = x + sigma_t n*,   z_s = z_t + (sigma_s - sigma_t) eps(z_t; sigma_t)
    g   = w (eps(z_t; sigma_t) - eps(z_s; sigma_s)) = w/sigma_s (D(z_s; sigma_s) - D(z_t; sigma_t))

n* is one noise for all views and steps. On the axis of Stable Diffusion's timesteps s falls from 700 to 100 with the square root of the
progress, and t lies 100 to 299 above it, within 100 and 980. g = 0 where the predicted noise does not change along the step, that is on a
straight trajectory. The signs are those of the released code (sail-sg/Consistent3D), whose loss has the gradient eps_t - eps_s with respect
to x; its weight is 1 in the coarse stage; its guidance scale falls from 100 to 50 in the convention s + 1. Two denoiser calls.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser, per_item
from modeseek.core.errors import InvalidInput
from modeseek.gradients.base import Estimate, NoisePolicy, check_point, generator_for, in_full_precision, noise_like, residual
from modeseek.gradients.ism import all_timesteps
from modeseek.gradients.noise_levels import NoiseLevels


@dataclass(frozen=True, kw_only=True)
class Consistent3D:
    """Consistency distillation along one trajectory; a `Gradient` of two denoiser calls.

    Args:
        denoiser: D of the (guided) prior.
        levels: time axis u and weight w; by default Stable Diffusion's timesteps / 999, weight "eps".
        span: lowest and highest u.
        anneal: u of s at progress 0 and 1.
        gap: smallest and largest u_t - u_s, uniform between them.
        noise: "shared" by all objects and views, as published, "fixed" per object, or "fresh".
        seed: of the noise.

    Raises:
        InvalidInput: numbers outside these ranges.
    """

    denoiser: Denoiser
    levels: NoiseLevels = field(default_factory=lambda: all_timesteps("eps"))
    span: tuple[float, float] = (0.1, 0.98)
    anneal: tuple[float, float] = (0.7, 0.1)
    gap: tuple[float, float] = (0.1, 0.3)
    noise: NoisePolicy = "shared"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.span[0] < self.span[1] <= 1 or not 0 < self.gap[0] <= self.gap[1]:
            raise InvalidInput(f"Consistent3D needs 0 <= span[0] < span[1] <= 1 and 0 < gap[0] <= gap[1], got {self.span} and {self.gap}")

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        denoiser = Counted(self.denoiser)
        u = self.anneal[0] + (self.anneal[1] - self.anneal[0]) * progress**0.5
        u_s = min(max(u, self.span[0]), self.span[1] - self.gap[0])
        gap = self.gap[0] + (self.gap[1] - self.gap[0]) * torch.rand(len(x), dtype=torch.float64, generator=rng)
        sigma_t = self.levels.quantile((u_s + gap).clamp(max=self.span[1])).to(x)
        sigma_s = self.levels.quantile(torch.full_like(gap, u_s)).to(x)
        n = noise_like(x, 1, self.noise, generator_for(self.noise, self.seed, rng))
        z = x + per_item(sigma_t, x) * n
        denoised = denoiser(z, sigma_t)
        moved = z + per_item((sigma_s - sigma_t) / sigma_t, x) * (z - denoised)
        difference = denoiser(moved, sigma_s) - denoised
        target = x - difference
        weight = per_item(self.levels.weigh(sigma_t) / sigma_s, x)
        info: dict[str, Tensor | float] = {"calls": float(denoiser.calls), "residual": residual(x, target), "sigma": sigma_t}
        return Estimate(weight * difference, target, info)
