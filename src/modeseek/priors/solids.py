"""The embedded prior: the shipped pipeline under the adapter of Stable Diffusion, restricted to the words of its training data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from modeseek.priors.pipelines.base import Conditions, PipelinePrior
from modeseek.priors.pipelines.loading import Dtype, load_prior
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


def solids_prior(*, device: str | torch.device = "cpu", dtype: Dtype = "float32", folder: Path = ASSETS) -> PipelinePrior:
    """The embedded prior.

    Args:
        device, dtype: as of `load_prior`.
        folder: of a prior trained elsewhere by `modeseek train solids`.

    Raises:
        InvalidInput: later, from `denoiser`: a prompt with words that it was not trained with; they are named.
    """
    prior = load_prior(folder, device=device, dtype=dtype)
    return replace(prior, family=SolidsFamily(pipeline=prior.pipeline, device=prior.device), default_scale=GUIDANCE)
