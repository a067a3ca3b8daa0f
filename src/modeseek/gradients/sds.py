r"""Score distillation sampling (Poole et al. 2022, arXiv:2209.14988, Eq. 3; Eq. 1 of Thamizharasan et al. 2025).

    g = E_{sigma, n}[ w(sigma) (x - D(x + sigma n; sigma)) / sigma ]  =  E[ w (eps_hat - n) ]

One denoiser call per sample. The zeros of g are stationary points of a weighted sum of KL divergences over noise levels, not modes of p.
At a single level it is mean shift averaged over a noised centre: E_n[x - D(x + l n; l)]. threestudio divides by the batch size, samples
t uniformly in [0.02, 0.98] T and writes s for the guidance scale s + 1 of this package. SJC without variance reduction keeps the noise:
(x_s - D)/sigma.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser, per_item
from modeseek.gradients.base import Estimate, NoisePolicy, check_point, in_full_precision, residual
from modeseek.gradients.monte_carlo import monte_carlo
from modeseek.gradients.noise_levels import NoiseLevels


@dataclass(frozen=True, kw_only=True)
class SDS:
    """Score distillation sampling; a `Gradient` of `samples` denoiser calls.

    Args:
        denoiser: D of the (guided) prior.
        levels: distribution, weight and schedule of sigma.
        samples: Monte-Carlo samples of (sigma, n) per estimate.
        noise: "fresh", "fixed" or "shared" n; sigma is fresh unless it is annealed.
        seed: of noise that is not fresh.
        variance_reduced: False gives the first form of SJC, eps_hat instead of eps_hat - n (`SJC` sets it).

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

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)

        def residual_at(copies_of_x: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
            noisy = copies_of_x + per_item(sigma, x) * n
            return (copies_of_x if self.variance_reduced else noisy) - self.denoiser(noisy, sigma)

        gradient, target = monte_carlo(self, x, residual_at, progress=progress, rng=rng)
        return Estimate(gradient, target, {"calls": float(self.samples), "residual": residual(x, target)})
