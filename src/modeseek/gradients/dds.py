r"""Delta denoising score (Hertz et al. 2023, arXiv:2304.07090, Eq. 5): editing a source towards another prompt.

    g = E[ w (eps_tgt(x + sigma n) - eps_src(x_src + sigma n)) ]
      = E[ w/sigma ((x - D_tgt(x + sigma n)) - (x_src - D_src(x_src + sigma n))) ]

with the same noise and level in both terms. If prompt and image match, the error of a prediction is a bias of the network; the second
term subtracts it. At x = x_src the gradient is the difference of the two prompts' predictions alone. The authors' notebook samples
t in [50, 949), guidance 7.5, w = 1, and takes 200 steps of SGD. Two denoiser calls per sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser
from modeseek.core.schedules import stable_diffusion_levels
from modeseek.gradients.base import Estimate, NoisePolicy, check_point, in_full_precision, residual
from modeseek.gradients.editing import check_source, residual_difference
from modeseek.gradients.monte_carlo import monte_carlo
from modeseek.gradients.noise_levels import NoiseLevels


def published_levels() -> NoiseLevels:
    """t uniform in [50, 949), w = 1."""
    sigmas = stable_diffusion_levels().sigmas
    return NoiseLevels(low=float(sigmas[50]), high=float(sigmas[948]), distribution="timestep")


@dataclass(frozen=True, kw_only=True)
class DDS:
    """Delta denoising score; a `Gradient` of 2 `samples` denoiser calls.

    Args:
        denoiser: D_tgt of the (guided) target prompt.
        source_denoiser: D_src of the source prompt, guided alike.
        source: x_src, (batch, *event), one per object.
        levels: distribution, weight and schedule of sigma.
        samples: Monte-Carlo samples of (sigma, n) per estimate.
        noise: "fresh", "fixed" or "shared" n.
        seed: of noise that is not fresh.

    Raises:
        InvalidInput: called with x of another shape than the source.

    Example:
        >>> at = lambda m: lambda x, s: m + (x - m) / (1 + s.reshape(-1, 1) ** 2)  # p = N(m, 1)
        >>> dds = DDS(denoiser=at(3.0), source_denoiser=at(0.0), source=torch.tensor([[0.2]]), levels=NoiseLevels(low=1.0, high=1.0))
        >>> dds(torch.tensor([[0.2]]), progress=0.0, rng=torch.Generator().manual_seed(0)).gradient  # (0 - 3) sigma^2 / (1 + sigma^2)
        tensor([[-1.5000]])
    """

    denoiser: Denoiser
    source_denoiser: Denoiser
    source: Tensor
    levels: NoiseLevels = field(default_factory=published_levels)
    samples: int = 1
    noise: NoisePolicy = "fresh"
    seed: int = 0

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        check_source(self.source, x)

        def residual_at(copies_of_x: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
            return residual_difference(self.denoiser, self.source_denoiser, copies_of_x, self.source, n, sigma)

        gradient, target = monte_carlo(self, x, residual_at, progress=progress, rng=rng)
        return Estimate(gradient, target, {"calls": 2.0 * self.samples, "residual": residual(x, target)})
