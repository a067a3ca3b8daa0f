r"""Consistent flow distillation (Yan et al. 2025, arXiv:2501.05445): the clean flow of the probability-flow ODE.

    g = w (x - D(x + sigma n; sigma)),   n fixed per object, sigma annealed

With x_sigma the state of the ODE and c = x_sigma - sigma n its clean part, dx/dsigma = eps gives dc/dsigma = (c - D(c + sigma n))/sigma,
which is g with w = 1/sigma. Gradient descent with the steps sigma - sigma' and weight "eps" is therefore DDIM from the noise sigma_0 n,
step by step (a test). So the formula is that of SDS; the fixed noise and the schedule make it a sampler of one image per seed instead of
a search for the most likely one. One denoiser call per step.

In 3-D the published method transports the noise over the surface, so that a point of the object gets the same noise in every view. This
package fixes the noise per slot of the batch ("fixed") or gives all views one noise image ("shared"), and does not transport it. The
published stochastic variant, which replaces part of the noise at each step, is `noise="fresh"` in the limit of full replacement.
"""

from __future__ import annotations

from modeseek.core.denoiser import Denoiser
from modeseek.gradients.base import NoisePolicy
from modeseek.gradients.noise_levels import NoiseLevels
from modeseek.gradients.sds import SDS


def CFD(  # noqa: N802 - the field's name, used like the other gradients' classes
    *,
    denoiser: Denoiser,
    levels: NoiseLevels | None = None,
    noise: NoisePolicy = "fixed",
    seed: int = 0,
) -> SDS:
    """Consistent flow distillation as SDS with fixed noise and annealed levels; a `Gradient` of one denoiser call.

    Args:
        denoiser: D of the (guided) prior.
        levels: annealed levels; by default linear in sigma over the range of `NoiseLevels`, weight "x0".
        noise: "fixed" per object, or "shared" by all.
        seed: of the noise.

    Example:
        >>> CFD(denoiser=lambda x, sigma: x).levels.anneal
        'linear'
    """
    return SDS(denoiser=denoiser, levels=levels or NoiseLevels(anneal="linear", weight="x0"), noise=noise, seed=seed)
