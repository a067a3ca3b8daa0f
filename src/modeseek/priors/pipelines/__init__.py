"""Pre-trained diffusion models of diffusers as image priors, one adapter a family; light until `load_prior`."""

from modeseek.priors.pipelines.base import PipelinePrior as PipelinePrior
from modeseek.priors.pipelines.loading import load_prior as load_prior
from modeseek.priors.pipelines.text import PromptEmbeds as PromptEmbeds
