"""Where denoisers come from: small networks inside the package, diffusers pipelines, and the embedded text-to-image prior."""

from modeseek.priors.base import ImagePrior as ImagePrior
from modeseek.priors.embedded import embedded as embedded
from modeseek.priors.energy import EnergyNet as EnergyNet
from modeseek.priors.energy import load_energy_net as load_energy_net
from modeseek.priors.energy import save_energy_net as save_energy_net
from modeseek.priors.load import load_prior as load_prior
from modeseek.priors.network import NetworkPrior as NetworkPrior
from modeseek.priors.network import PixelRange as PixelRange
from modeseek.priors.pipelines import PipelinePrior as PipelinePrior
from modeseek.priors.pipelines import PromptEmbeds as PromptEmbeds
from modeseek.priors.pipelines.codecs import LatentCodec as LatentCodec
