"""A prior that needs about half the memory for activations.

The two sides of guidance are evaluated in two network calls, one after the other, instead of one call on the doubled batch. Images pass the
autoencoder one at a time. The values are the same up to rounding, at the same number of denoiser calls, and take more time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser
from modeseek.core.guidance import GuidedPair
from modeseek.priors.base import ImagePrior
from modeseek.priors.pipelines.base import ConditionedDenoiser, Doubled


@dataclass(frozen=True, kw_only=True)
class FrugalPrior:
    """An `ImagePrior` around another one, whose attributes it has."""

    prior: ImagePrior

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "prior"), name)

    def denoiser(self, prompts: Any, **settings: Any) -> Denoiser:
        """D with its two sides evaluated one after the other; see `ImagePrior.denoiser`."""
        whole = self.prior.denoiser(prompts, **settings)
        if not (isinstance(whole, GuidedPair) and isinstance(whole.pair, Doubled)):
            return whole
        weaker = ConditionedDenoiser(prior=whole.pair.prior, conditions=whole.pair.opposite)
        return replace(whole, pair=lambda x, sigma: (whole.denoiser(x, sigma), weaker(x, sigma)))

    def encode(self, image: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """One image at a time; see `ImagePrior.encode`."""
        return torch.cat([self.prior.encode(part, rng=rng) for part in image.split(1)])

    def decode(self, x: Tensor) -> Tensor:
        """One item at a time; see `ImagePrior.decode`."""
        return torch.cat([self.prior.decode(part) for part in x.split(1)])
