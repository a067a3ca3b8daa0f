"""Gradients of diffusion models, one estimator per file, all called as `gradient(x, progress=..., rng=...) -> Estimate`.

`SDS`, `SJC`, `CFD`, `CSD`, `NFSD` and `SDSBridge` belong to two families (`SDS` and `LinearScore`); `DDS` and `PDS` edit a source;
`InverseRFDS` is a gradient with respect to the start noise of an image.
"""

from modeseek.gradients.base import Estimate as Estimate
from modeseek.gradients.base import Gradient as Gradient
from modeseek.gradients.cfd import CFD as CFD
from modeseek.gradients.consistent3d import Consistent3D as Consistent3D
from modeseek.gradients.dds import DDS as DDS
from modeseek.gradients.dsd import DSD as DSD
from modeseek.gradients.family import CSD as CSD
from modeseek.gradients.family import NFSD as NFSD
from modeseek.gradients.family import SDSBridge as SDSBridge
from modeseek.gradients.hd_ode import HDODE as HDODE
from modeseek.gradients.irfds import InverseRFDS as InverseRFDS
from modeseek.gradients.ism import ISM as ISM
from modeseek.gradients.linear import LinearScore as LinearScore
from modeseek.gradients.mean_shift import MeanShift as MeanShift
from modeseek.gradients.msd import MSD as MSD
from modeseek.gradients.noise_levels import NoiseLevels as NoiseLevels
from modeseek.gradients.pds import PDS as PDS
from modeseek.gradients.persistent import PersistentMSD as PersistentMSD
from modeseek.gradients.rfds import RFDS as RFDS
from modeseek.gradients.sdi import SDI as SDI
from modeseek.gradients.sds import SDS as SDS
from modeseek.gradients.sjc import SJC as SJC
from modeseek.gradients.vsd import VSD as VSD

AnyGradient = (
    SDS | VSD | SDI | MSD | PersistentMSD | MeanShift | HDODE | LinearScore | ISM | RFDS | InverseRFDS | Consistent3D | DSD | DDS | PDS
)
"""Every gradient class of the package. `SJC` and `CFD` make an `SDS`; `CSD`, `NFSD` and `SDSBridge` make a `LinearScore`."""
