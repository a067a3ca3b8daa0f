"""Distributions with exact log densities, scores, denoisers and samples at every noise level."""

from modeseek.densities.anisotropic import anisotropic_mixture as anisotropic_mixture
from modeseek.densities.curves import pinwheel as pinwheel
from modeseek.densities.curves import spiral as spiral
from modeseek.densities.empirical import EmpiricalDensity as EmpiricalDensity
from modeseek.densities.fractal import fractal as fractal
from modeseek.densities.mixture import GaussianMixture as GaussianMixture
from modeseek.densities.rotated import rotated_mixture as rotated_mixture

Density = GaussianMixture | EmpiricalDensity
"""Every density of the package; each is also a `Denoiser`."""
