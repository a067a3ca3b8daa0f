r"""Score distillation sampling (Poole et al. 2022, Eq. 3; the paper's Eq. 1).

    g = E_{sigma, n}[ w(sigma) (x - D(x + sigma n; sigma)) / sigma ]  =  E[ w (eps_hat - n) ]

One denoiser call a sample. Its zeros are the stationary points of a mixture of KL divergences over noise levels, not of p. Not to be
confused with SJC without variance reduction, which keeps the noise: (x_s - D)/sigma. Published codes differ: threestudio
divides by the batch, draws t uniformly in [0.02, 0.98] T and writes s for our s + 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser, per_item
from modeseek.gradients.base import (
    Estimate,
    NoisePolicy,
    check_point,
    generator_for,
    mean_over_samples,
    normal_like,
    residual,
)
from modeseek.gradients.noise_levels import NoiseLevels


@dataclass(frozen=True, kw_only=True)
class SDS:
    """Score distillation sampling; a `Gradient` of `samples` denoiser calls.

    Args:
        denoiser: D of the (guided) prior.
        levels: distribution and weight of sigma.
        samples: Monte-Carlo samples of (sigma, n) an estimate.
        noise: "fresh" or "fixed" n; sigma is always fresh.
        seed: of the fixed noise.
        variance_reduced: False gives SJC's first form, eps_hat instead of eps_hat - n (`SJC` sets it).

    Example:
        >>> normal = lambda x, sigma: x / (1 + sigma.reshape(-1, 1) ** 2)
        >>> sds = SDS(denoiser=normal, levels=NoiseLevels(low=1.0, high=1.0), samples=4096)
        >>> sds(torch.tensor([[2.0]]), progress=0.0, rng=torch.Generator().manual_seed(0)).gradient.round()
        tensor([[1.]])
    """

    denoiser: Denoiser
    levels: NoiseLevels = field(default_factory=NoiseLevels)
    samples: int = 1
    noise: NoisePolicy = "fresh"
    seed: int = 0
    variance_reduced: bool = True

    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        denoiser, noise_rng = Counted(self.denoiser), generator_for(self.noise, self.seed, rng)
        total_weight = torch.zeros(len(x), dtype=x.dtype, device=x.device)

        def evaluate(copies_of_x: Tensor, copies: int) -> Tensor:
            sigma = self.levels.sample(len(copies_of_x), rng).to(x)
            noisy = copies_of_x + per_item(sigma, copies_of_x) * normal_like(copies_of_x, noise_rng)
            weight = self.levels.weigh(sigma) / sigma
            total_weight.add_(weight.reshape(copies, -1).sum(0))
            base = copies_of_x if self.variance_reduced else noisy
            return per_item(weight, x) * (base - denoiser(noisy, sigma))

        gradient = mean_over_samples(x, self.samples, evaluate)
        target = x - gradient * per_item(self.samples / total_weight, x)
        info: dict[str, Tensor | float] = {"calls": float(self.samples), "residual": residual(x, target)}
        return Estimate(gradient, target, info)
