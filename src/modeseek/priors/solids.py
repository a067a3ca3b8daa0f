"""The embedded prior: the pipeline in the package, loaded as Stable Diffusion and restricted to the words of its training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.loading import load_prior
from modeseek.priors.pipelines.stable_diffusion import StableDiffusion
from modeseek.priors.pipelines.text import PromptEmbeds, Prompts
from modeseek.solids.captions import check_words
from modeseek.solids.scoring import ASSETS

GUIDANCE = 3.0
"""The scale that suits this prior: above it colours gain haloes, below it the second part now and then goes missing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SolidsFamily(StableDiffusion):
    """Stable Diffusion's adapter, restricted to the words that the prior was trained with."""

    def conditions(self, prompts: Prompts, **settings: Any) -> Conditions:
        if not isinstance(prompts, PromptEmbeds):
            for prompt in prompts:
                check_words(prompt)
        return super().conditions(prompts, **settings)

    def opposite(self, negatives: Sequence[str | None] | PromptEmbeds, **settings: Any) -> Conditions:
        if not isinstance(negatives, PromptEmbeds):
            for text in filter(None, negatives):
                check_words(text)
        return super().opposite(negatives, **settings)


def solids_prior(*, folder: Path = ASSETS, **settings: Any) -> PipelinePrior:
    """The embedded prior.

    Args:
        folder: of a prior trained elsewhere by `modeseek train solids`.
        settings: of `load_prior`: device, dtype, ...; the prior inside the package is not checked again at load.

    Raises:
        InvalidInput: a setting that it does not have; later, from `denoiser`: a prompt with words that it was not trained with.
    """
    prior = load_prior(folder, **({"check": folder != ASSETS} | settings))
    return replace(prior, family=SolidsFamily(pipeline=prior.pipeline, device=prior.device), default_scale=GUIDANCE)
