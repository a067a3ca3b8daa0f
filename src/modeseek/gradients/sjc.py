r"""Score Jacobian chaining (Wang et al. 2022, arXiv:2212.00774).

    with variance reduction      g = E[(x - D(x_s; sigma)) / sigma]       equal to SDS with w = 1
    without                      g = E[(x_s - D(x_s; sigma)) / sigma]     same mean, different variance

x_s = x + sigma n. Subtracting n lowers the variance where eps_hat is close to n, at levels above the scale of the data. Below that scale
D follows x_s and eps_hat hardly varies, so the subtraction adds variance. One denoiser call per sample. The published code samples sigma
uniformly from Stable Diffusion's table of levels between 0.098 and 12.2, at guidance scale 100.
"""

from __future__ import annotations

from dataclasses import replace

from modeseek.core.denoiser import Denoiser
from modeseek.gradients.base import NoisePolicy
from modeseek.gradients.noise_levels import NoiseLevels
from modeseek.gradients.sds import SDS


def SJC(  # noqa: N802 - the field's name, used like the other gradients' classes
    *,
    denoiser: Denoiser,
    levels: NoiseLevels | None = None,
    samples: int = 1,
    noise: NoisePolicy = "fresh",
    seed: int = 0,
    variance_reduced: bool = True,
) -> SDS:
    """Score Jacobian chaining as the member w = 1 of the SDS family; a `Gradient` of `samples` denoiser calls.

    Example:
        >>> SJC(denoiser=lambda x, sigma: x).levels.weight
        'eps'
    """
    levels = replace(levels or NoiseLevels(), weight="eps")
    return SDS(denoiser=denoiser, levels=levels, samples=samples, noise=noise, seed=seed, variance_reduced=variance_reduced)
