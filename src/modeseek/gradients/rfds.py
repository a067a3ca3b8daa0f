r"""Rectified-flow distillation (Yang et al. 2024, arXiv:2406.03293): RFDS and RFDS-Rev.

With z = (1 - t) x + t n and the velocity u = (z - D)/t, the residual of the flow is u - (n - x) = (x - D)/t, t = sigma/(1 + sigma):

    RFDS        g = E[ (1 + sigma)/sigma (x - D_s(x + sigma n; sigma)) ]             SDS with the weight of the flow
    RFDS-Rev    the same at n' = n + (1 - t)(u_c + x - n) = eps_c(x + sigma n; sigma)

so the inversion step of RFDS-Rev replaces the noise by the noise that the unguided network predicts. t is uniform in [0.02, 0.98] in the
released code (on Stable Diffusion 3's shifted grid). That code multiplies RFDS by a random number, the logistic of a normal, that does not
depend on t; its mean of one half is left out here. One denoiser call per sample, two with `inversion`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser, eps, per_item
from modeseek.gradients.base import Estimate, NoisePolicy, check_point, in_full_precision, residual
from modeseek.gradients.monte_carlo import monte_carlo
from modeseek.gradients.noise_levels import NoiseLevels


def flow_levels(low: float = 0.02, high: float = 0.98) -> NoiseLevels:
    """t uniform in [low, high], with the weight of a flow's velocity.

    Example:
        >>> flow_levels(0.5, 0.5).sample(1, torch.Generator())  # sigma = t / (1 - t)
        tensor([1.], dtype=torch.float64)
    """
    return NoiseLevels(low=low / (1 - low), high=high / (1 - high), distribution="flow", weight="flow")


@dataclass(frozen=True, kw_only=True)
class RFDS:
    """Rectified-flow distillation sampling; a `Gradient` of `samples` denoiser calls, twice as many with `inversion`.

    Args:
        denoiser: D_s of the (guided) prior; any parametrisation, not only flows.
        inversion: D_c of the prompt without guidance: RFDS-Rev. None: RFDS.
        levels: distribution, weight and schedule of sigma.
        samples: Monte-Carlo samples of (sigma, n) per estimate.
        noise: "fresh", "fixed" or "shared" n.
        seed: of noise that is not fresh.
    """

    denoiser: Denoiser
    inversion: Denoiser | None = None
    levels: NoiseLevels = field(default_factory=flow_levels)
    samples: int = 1
    noise: NoisePolicy = "fresh"
    seed: int = 0

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)

        def residual_at(copies_of_x: Tensor, n: Tensor, sigma: Tensor) -> Tensor:
            scale = per_item(sigma, x)
            if self.inversion is not None:
                n = eps(self.inversion, copies_of_x + scale * n, sigma)
            return copies_of_x - self.denoiser(copies_of_x + scale * n, sigma)

        gradient, target = monte_carlo(self, x, residual_at, progress=progress, rng=rng)
        calls = float(self.samples * (1 if self.inversion is None else 2))
        return Estimate(gradient, target, {"calls": calls, "residual": residual(x, target)})
