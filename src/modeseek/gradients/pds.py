r"""Posterior distillation sampling (Koo et al. 2023, arXiv:2311.13831): editing by matching stochastic latents.

The stochastic latent of an image is z = (x_s - mu(x_t))/sigma_post, with x_s, x_t its noised states at two neighbouring levels (each with
separate noise, shared by source and target) and mu the mean of DDPM's posterior of x_s given x_t and D. The gradient is
z_tgt - z_src, in which the noise cancels:

    g = psi (x - x_src) + chi/sigma_t ((x - D_tgt(x + sigma_t n)) - (x_src - D_src(x_src + sigma_t n)))

With a = sqrt(alpha_bar), b = sqrt(1 - alpha_bar), c0 and c1 the posterior's coefficients of D and x_t:

    psi = (a_s - c0 - c1 a_t)/sigma_post,     chi = c0 sigma_t/sigma_post

*Paper and released code differ.* For the posterior of DDPM (Ho et al. 2020, Eq. 7) c0 + c1 a_t = a_s holds exactly, so psi = 0: with
consistent coefficients ("posterior") PDS is DDS with the weight sqrt(1 - sigma_s^2/sigma_t^2) sigma_t/sigma_s, and no other
term attracts x to the source. The released code ("released") takes t and s two timesteps apart, from a schedule of 500 steps, but
beta_t, alpha_t and sigma_post of single steps of 1000, so c0 is about half the consistent value and psi > 0: a pull towards the source with
50 to 100 % of the weight of the other term. Its guidance scale is 100, its timesteps are within 21 and 979, and its loss is a mean.
Two calls per sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser, per_item
from modeseek.core.errors import InvalidInput
from modeseek.core.schedules import stable_diffusion_levels
from modeseek.gradients.base import Estimate, NoisePolicy, check_point, generator_for, in_full_precision, noise_like, repeated, residual
from modeseek.gradients.editing import check_source, residual_difference


@dataclass(frozen=True, kw_only=True)
class PDS:
    """Posterior distillation sampling; a `Gradient` of 2 `samples` denoiser calls.

    Args:
        denoiser: D_tgt of the (guided) target prompt.
        source_denoiser: D_src of the source prompt, guided alike.
        source: x_src, (batch, *event), one per object.
        timesteps: lowest and highest t, of Stable Diffusion's 1000.
        stride: t - s in timesteps.
        coefficients: "released", those of the authors' code, or "posterior", the consistent ones.
        samples: Monte-Carlo samples of (t, n) per estimate.
        noise: "fresh", "fixed" or "shared" n.
        seed: of noise that is not fresh.

    Raises:
        InvalidInput: timesteps or stride out of range; called, x of another shape than the source.
    """

    denoiser: Denoiser
    source_denoiser: Denoiser
    source: Tensor
    timesteps: tuple[int, int] = (21, 979)
    stride: int = 2
    coefficients: Literal["released", "posterior"] = "released"
    samples: int = 1
    noise: NoisePolicy = "fresh"
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.timesteps
        if not 1 <= self.stride <= low <= high <= 999:
            raise InvalidInput(f"PDS needs 1 <= stride <= lowest t <= highest t <= 999, got {self.stride} and {self.timesteps}")
        if self.coefficients not in ("released", "posterior"):
            raise InvalidInput(f"coefficients {self.coefficients!r} are unknown: choose released or posterior")

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        check_source(self.source, x)
        table = stable_diffusion_levels().sigmas
        noise_rng = generator_for(self.noise, self.seed, rng)
        low, high = self.timesteps
        total, total_weight = torch.zeros_like(x), x.new_zeros(len(x))
        for copies_of_x, copies in repeated(x, self.samples):
            t = torch.randint(low, high + 1, (len(copies_of_x),), generator=rng)
            psi, chi = (value.to(x) for value in pds_coefficients(t, self.stride, self.coefficients))
            sigma = table[t].to(x)
            n = noise_like(x, copies, self.noise, noise_rng)
            difference = residual_difference(self.denoiser, self.source_denoiser, copies_of_x, self.source, n, sigma)
            away = copies_of_x - self.source.to(x).repeat(copies, *[1] * (x.ndim - 1))
            found = per_item(psi, x) * away + per_item(chi / sigma, x) * difference
            total += found.reshape(copies, *x.shape).sum(0)
            total_weight += (psi + chi / sigma).reshape(copies, -1).sum(0)
        target = x - total / per_item(total_weight, x)
        return Estimate(total / self.samples, target, {"calls": 2.0 * self.samples, "residual": residual(x, target)})


def pds_coefficients(t: Tensor, stride: int, kind: str) -> tuple[Tensor, Tensor]:
    """psi and chi at each timestep, float64.

    Example:
        >>> [round(float(value), 3) for value in pds_coefficients(torch.tensor(500), 2, "posterior")]
        [0.0, 0.116]
        >>> [round(float(value), 3) for value in pds_coefficients(torch.tensor(500), 2, "released")]
        [0.032, 0.082]
    """
    alpha_bar = stable_diffusion_levels().alphas_cumprod.double()
    bar_t, bar_s = alpha_bar[t], alpha_bar[t - stride]
    single = bar_t / alpha_bar[t - 1]
    alpha = single if kind == "released" else bar_t / bar_s
    c0 = bar_s.sqrt() * (1 - alpha) / (1 - bar_t)
    c1 = alpha.sqrt() * (1 - bar_s) / (1 - bar_t)
    spread = ((1 - bar_s) / (1 - bar_t) * (1 - alpha)).sqrt()
    psi = (bar_s.sqrt() - c0 - c1 * bar_t.sqrt()) / spread
    return (torch.zeros_like(psi) if kind == "posterior" else psi), c0 * ((1 - bar_t) / bar_t).sqrt() / spread
