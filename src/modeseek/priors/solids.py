"""The embedded prior: the shipped pipeline behind the very adapter that runs Stable Diffusion, and a check of the words it knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from modeseek.priors.pipelines.base import Conditions, Family, GuidanceKind, PipelinePrior
from modeseek.priors.pipelines.loading import Dtype, load_prior
from modeseek.solids.captions import check_words
from modeseek.solids.scoring import ASSETS

GUIDANCE = 3.0
"""The scale that suits this prior: above it colours gain haloes, below it the second part now and then goes missing."""


@dataclass(frozen=True, kw_only=True)
class OwnWords:
    """A `Family` that names the words it never saw."""

    family: Family
    guidance: GuidanceKind
    lora_targets: tuple[str, ...]

    @property
    def network(self) -> nn.Module:
        return self.family.network

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        for prompt in prompts:
            check_words(prompt)
        return self.family.conditions(prompts)

    def opposite(self, negative: str) -> Conditions:
        if negative:
            check_words(negative)
        return self.family.opposite(negative)

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        return self.family.predict(z, t, conditions)


def solids_prior(*, device: str | torch.device = "cpu", dtype: Dtype = "float32", folder: Path = ASSETS) -> PipelinePrior:
    """The embedded prior.

    Args:
        device, dtype: as of `load_prior`.
        folder: of a prior trained elsewhere by `modeseek train solids`.

    Raises:
        InvalidInput: later, from `denoiser`: a prompt with words it never saw; they are named.
    """
    prior = load_prior(folder, device=device, dtype=dtype)
    return replace(prior, family=OwnWords(family=prior.family, guidance=prior.family.guidance, lora_targets=prior.family.lora_targets))
