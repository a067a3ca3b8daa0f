"""Where denoisers come from: small learned networks, trained here and shipped inside the package, and pre-trained pipelines of images."""

from modeseek.priors.embedded import RECIPES as RECIPES
from modeseek.priors.embedded import embedded as embedded
from modeseek.priors.embedded import recipe as recipe
from modeseek.priors.energy import EnergyNet as EnergyNet
from modeseek.priors.energy import load_energy_net as load_energy_net
from modeseek.priors.energy import save_energy_net as save_energy_net
from modeseek.priors.images import ImagePrior as ImagePrior
from modeseek.priors.pipelines import PipelinePrior as PipelinePrior
from modeseek.priors.pipelines import load_prior as load_prior
from modeseek.priors.training import TrainingConfig as TrainingConfig
from modeseek.priors.training import train as train
