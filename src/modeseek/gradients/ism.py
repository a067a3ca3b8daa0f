r"""Interval score matching (Liang et al. 2023, LucidDreamer, arXiv:2311.11284, Eq. 9).

    g = (x_t - D_s(x_t; sigma_t)) - (sigma_t / sigma_s) (x_s - D_0(x_s; sigma_s)) = sigma_t (eps_s(x_t) - eps_0(x_s))

x_s is the unconditional DDIM inversion of x, x_t one more inversion step, D_s the guided and D_0 the unconditional denoiser. Inversion
takes the place of fresh noise, and the difference of two predictions on one trajectory that of eps_hat - n.

The time axis u in [0, 1] is that of `levels`, by default Stable Diffusion's timesteps / 999. As coded by the authors: u uniform in
[0.02, 0.5], its upper end widened to 0.98 at first; the interval u_t - u_s falls from 0.1 to 0.08; inversion in strides of 0.2 from
x + sigma_0 n; weight sigma_t. The paper's experiments may use other intervals. Calls: ceil(u_s / stride) for the inversion, one for the
step to x_t, one guided.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser, per_item
from modeseek.core.errors import InvalidInput
from modeseek.core.sampling import invert
from modeseek.core.schedules import stable_diffusion_levels
from modeseek.gradients.base import Estimate, NoisePolicy, check_point, generator_for, in_full_precision, noise_like, residual
from modeseek.gradients.noise_levels import NoiseLevels


def all_timesteps(weight: str = "x0") -> NoiseLevels:
    """Every level of Stable Diffusion, on the axis of its timesteps."""
    sigmas = stable_diffusion_levels().sigmas
    return NoiseLevels(low=float(sigmas[0]), high=float(sigmas[-1]), distribution="timestep", weight=weight)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class ISM:
    """Interval score matching; a `Gradient` of 2 to about 7 denoiser calls.

    Args:
        denoiser: D_s, guided.
        null: D_0, of the empty prompt; it inverts.
        levels: time axis and weight.
        span: lowest and highest u of t.
        warm: highest u at progress 0; it falls to `span[1]` at `warmup`.
        interval: u_t - u_s at progress 0 and from `warmup` on.
        warmup: progress at which both have settled (1500 of 5000 iterations in the authors' settings).
        stride: u of one inversion step.
        noise: of the state at the lowest level, where the inversion starts.
        seed: of noise that is not fresh.

    Raises:
        InvalidInput: numbers outside these ranges.
    """

    denoiser: Denoiser
    null: Denoiser
    levels: NoiseLevels = field(default_factory=all_timesteps)
    span: tuple[float, float] = (0.02, 0.5)
    warm: float = 0.98
    interval: tuple[float, float] = (0.1, 0.08)
    warmup: float = 0.3
    stride: float = 0.2
    noise: NoisePolicy = "fresh"
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.span[0] < self.span[1] <= self.warm <= 1 and min(self.interval) > 0 and self.stride > 0 and self.warmup >= 0):
            raise InvalidInput(f"ISM needs 0 < span[0] < span[1] <= warm <= 1, positive intervals and stride, got {self}")

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        denoiser, null = Counted(self.denoiser), Counted(self.null)
        cold = min(progress / self.warmup, 1.0) if self.warmup > 0 else 1.0
        high = self.warm + (self.span[1] - self.warm) * cold
        gap = self.interval[0] + (self.interval[1] - self.interval[0]) * cold
        u_t = self.span[0] + (high - self.span[0]) * torch.rand(len(x), dtype=torch.float64, generator=rng)
        u_s = (u_t - gap).clamp(min=0)
        strides = math.ceil(float(u_s.max()) / self.stride - 1e-9)
        grid = torch.arange(strides + 1, dtype=torch.float64)[:, None] * self.stride
        levels = self.levels.quantile(torch.minimum(grid, u_s)).to(x)  # (strides + 1, batch)
        sigma_t, sigma_s = self.levels.quantile(u_t).to(x), levels[-1]
        start = x + per_item(levels[0], x) * noise_like(x, 1, self.noise, generator_for(self.noise, self.seed, rng))
        x_s = invert(null, start, levels)[-1]
        eps_s = (x_s - null(x_s, sigma_s)) / per_item(sigma_s, x)
        x_t = x_s + per_item(sigma_t - sigma_s, x) * eps_s
        gradient = (x_t - denoiser(x_t, sigma_t)) - per_item(sigma_t, x) * eps_s
        target = x - gradient
        weight = per_item(self.levels.weigh(sigma_t) / sigma_t, x)
        calls = float(denoiser.calls + null.calls)
        return Estimate(weight * gradient, target, {"calls": calls, "residual": residual(x, target), "sigma": sigma_t})
