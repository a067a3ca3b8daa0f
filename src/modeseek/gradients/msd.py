r"""Mean-shift distillation (Thamizharasan et al. 2025, Eqs. 8-11 and Algorithm 2).

    g = x - (1/N) sum_i y_i,   y_i ~ q(.|x),   q(y|x) ~ p(y) N(y; x, l^2 I)

-g is a Monte-Carlo estimate of the mean-shift vector m(x) = E_q[y] - x = D(x; l) - x = l^2 grad log p_l(x). It vanishes at the
stationary points of p smoothed by the bandwidth l, and |g| is a convergence criterion. The paper prints the opposite sign, y - x, which is
the ascent direction. The sampler decides how y is drawn (`modeseek.product.samplers`, `modeseek.product.reverse`) and the schedule how l
falls (`modeseek.core.schedules`). Cost: N draws, and one call of an adaptive schedule.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser
from modeseek.core.schedules import Bandwidth, LinearBandwidth
from modeseek.gradients.base import (
    Estimate,
    NoisePolicy,
    check_point,
    generator_for,
    in_full_precision,
    mean_over_samples,
    noise_like,
    residual,
)
from modeseek.product.samplers import ProductSampler, SplitSampler


@dataclass(frozen=True, kw_only=True)
class MSD:
    """Mean-shift distillation; a `Gradient`. The defaults are the paper's.

    Args:
        denoiser: D of the (guided) prior.
        bandwidth: schedule l(progress, x, denoiser) -> (batch,), a standard deviation per coordinate.
        sampler: sampler of the product density.
        samples: N, draws per estimate.
        noise: start noise of the draws: "fresh", "fixed" per object, or "shared" by all objects.
        seed: of noise that is not fresh.

    Example:
        >>> from modeseek.product.samplers import ExactSampler
        >>> from modeseek.core.schedules import LinearBandwidth
        >>> normal = lambda x, sigma: x / (1 + sigma.reshape(-1, 1) ** 2)  # p = N(0, 1)
        >>> msd = MSD(denoiser=normal, bandwidth=LinearBandwidth(start=1.0, end=1.0), sampler=ExactSampler(), samples=20000)
        >>> msd(torch.tensor([[2.0]]), progress=0.0, rng=torch.Generator().manual_seed(0)).gradient.round(decimals=1)
        tensor([[1.]])
    """

    denoiser: Denoiser
    bandwidth: Bandwidth = field(default_factory=LinearBandwidth)
    sampler: ProductSampler = field(default_factory=SplitSampler)
    samples: int = 1
    noise: NoisePolicy = "fresh"
    seed: int = 0

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        noise_rng = generator_for(self.noise, self.seed, rng)
        scheduling, drawing = Counted(self.denoiser), Counted(self.denoiser)
        bandwidth = self.bandwidth(progress, x, scheduling)

        def evaluate(copies_of_x: Tensor, copies: int) -> Tensor:
            return self.sampler(drawing, copies_of_x, bandwidth.repeat(copies), noise_like(x, copies, self.noise, noise_rng))

        target = mean_over_samples(x, self.samples, evaluate)
        calls = scheduling.calls + drawing.items / len(x)
        info: dict[str, Tensor | float] = {"calls": float(calls), "bandwidth": bandwidth, "residual": residual(x, target)}
        return Estimate(x - target, target, info)
