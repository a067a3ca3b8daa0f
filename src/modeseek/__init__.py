"""Gradients out of diffusion models: mean-shift distillation and its peers behind one interface, checked against known truths."""

from modeseek.denoiser import EDM as EDM
from modeseek.denoiser import Counted as Counted
from modeseek.denoiser import Denoiser as Denoiser
from modeseek.denoiser import DiscreteLevels as DiscreteLevels
from modeseek.denoiser import Flow as Flow
from modeseek.denoiser import VariancePreserving as VariancePreserving
from modeseek.densities import EmpiricalDensity as EmpiricalDensity
from modeseek.densities import GaussianMixture as GaussianMixture
from modeseek.densities import fractal as fractal
from modeseek.densities import pinwheel as pinwheel
from modeseek.densities import spiral as spiral
from modeseek.distill import Step as Step
from modeseek.distill import Stop as Stop
from modeseek.distill import distill as distill
from modeseek.drawing import EulerDraw as EulerDraw
from modeseek.drawing import ExactDraw as ExactDraw
from modeseek.drawing import ProximalDraw as ProximalDraw
from modeseek.drawing import SplitDraw as SplitDraw
from modeseek.errors import InvalidInput as InvalidInput
from modeseek.errors import ModeseekError as ModeseekError
from modeseek.errors import NonFiniteError as NonFiniteError
from modeseek.errors import OutputError as OutputError
from modeseek.errors import WeightsError as WeightsError
from modeseek.gradients import MSD as MSD
from modeseek.gradients import SDI as SDI
from modeseek.gradients import SDS as SDS
from modeseek.gradients import SJC as SJC
from modeseek.gradients import VSD as VSD
from modeseek.gradients import Estimate as Estimate
from modeseek.gradients import NoiseLevels as NoiseLevels
from modeseek.guidance import Guided as Guided
from modeseek.guidance import GuidedPair as GuidedPair
from modeseek.priors import embedded as embedded
from modeseek.product import ExactProduct as ExactProduct
from modeseek.product import ProximalProduct as ProximalProduct
from modeseek.representations import Points as Points
from modeseek.schedules import AdaptiveBandwidth as AdaptiveBandwidth
from modeseek.schedules import ExponentialBandwidth as ExponentialBandwidth
from modeseek.schedules import LinearBandwidth as LinearBandwidth

__version__ = "0.1.0"
