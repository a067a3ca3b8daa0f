"""Gradients out of diffusion models, one estimator a file, all called `gradient(x, progress=..., rng=...) -> Estimate`."""

from modeseek.gradients.base import Estimate as Estimate
from modeseek.gradients.base import Gradient as Gradient
from modeseek.gradients.msd import MSD as MSD
from modeseek.gradients.noise_levels import NoiseLevels as NoiseLevels
from modeseek.gradients.persistent import PersistentMSD as PersistentMSD
from modeseek.gradients.sdi import SDI as SDI
from modeseek.gradients.sds import SDS as SDS
from modeseek.gradients.sjc import SJC as SJC
from modeseek.gradients.vsd import VSD as VSD

AnyGradient = SDS | VSD | SDI | MSD | PersistentMSD
"""Every gradient of the package (SJC is a member of the SDS class)."""
