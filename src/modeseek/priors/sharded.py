"""An image prior whose work is divided among the ranks of a run (`modeseek.scaling.ranks`): each asks it for its own share of a batch.

Denoisers, the codec and VSD's auxiliary network give every rank the whole answer, gathered. The networks themselves are on every rank:
memory for weights is not divided, that for activations is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import Denoiser
from modeseek.core.errors import InvalidInput
from modeseek.core.guidance import EVERYWHERE, Interval
from modeseek.priors.base import ImagePrior
from modeseek.scaling.ranks import Ranks


def sharded(prior: ImagePrior, ranks: Ranks) -> ImagePrior:
    """The prior divided among the ranks; itself where there is one."""
    return prior if ranks.world == 1 else ShardedPrior(prior=prior, ranks=ranks)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class ShardedPrior:
    """A prior on several ranks; an `ImagePrior`. Every rank must make the same calls with the same x.

    Args:
        prior: this rank's own.
        ranks: who shares the work.
    """

    prior: ImagePrior
    ranks: Ranks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def denoiser(
        self, prompts: Sequence[str], *, guidance: float | None = None, negative: Any = None, interval: Interval = EVERYWHERE
    ) -> Denoiser:
        """D of the prior, each item of x asked for on one rank; Monte-Carlo samples are items too. One denoiser call."""
        settings = {"guidance": guidance, "negative": negative, "interval": interval}
        return ShardedDenoiser(prior=self.prior, ranks=self.ranks, prompts=tuple(prompts), settings=settings)

    def encode(self, image: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """x of all images, leading back through the own share; a draw of the posterior is made whole on every rank."""
        if rng is not None:
            return self.ranks.own(self.prior.encode(image, rng=rng))
        return self.ranks.divided(len(image), lambda own: self.prior.encode(image[own]))

    def decode(self, x: Tensor) -> Tensor:
        """Images of all x, leading back through the own share."""
        return self.ranks.divided(len(x), lambda own: self.prior.decode(x[own]))

    def auxiliary(self, prompts: Sequence[str], *, rank: int = 4, seed: int = 0) -> nn.Module:
        """D_aux for VSD, each item on one rank; it learns from all of them if its optimiser's gradients are summed (`Ranks.summed`).

        Raises:
            InvalidInput: prompts that differ.
        """
        if len(set(prompts)) != 1:
            raise InvalidInput(f"VSD on several processes takes one prompt for all items, got {sorted(set(prompts))}")
        made = self.prior.auxiliary(prompts[:1], rank=rank, seed=seed)
        whole = made.forward
        made.forward = lambda x, sigma: self.ranks.divided(len(x), lambda own: whole(x[own], _levels(sigma, own)))  # type: ignore[method-assign]
        return made


@dataclass(frozen=True, kw_only=True)
class ShardedDenoiser:
    """D of which this rank asks for its share of the items; item k has prompt k modulo their number. Prompts are encoded when first met."""

    prior: ImagePrior
    ranks: Ranks
    prompts: tuple[str, ...]
    settings: dict[str, Any]
    bound: dict[tuple[str, ...], Denoiser] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._bound(slice(0, len(self.prompts)), len(self.prompts))  # wrong prompts and settings are refused here, on every rank

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        count = len(x)
        if count % len(self.prompts):
            raise InvalidInput(f"x holds {count} items for {len(self.prompts)} prompts: give one prompt an item, or copies of the batch")
        return self.ranks.divided(count, lambda own: self._bound(own, count)(x[own], _levels(sigma, own)))

    def _bound(self, own: slice, count: int) -> Denoiser:
        asked = tuple(self.prompts[k % len(self.prompts)] for k in range(count)[own])
        asked = asked[:1] if len(set(asked)) == 1 else asked  # one prompt serves any number of items
        if asked not in self.bound:
            self.bound[asked] = self.prior.denoiser(asked, **self.settings)
        return self.bound[asked]


def _levels(sigma: Tensor, own: slice) -> Tensor:
    return sigma[own] if sigma.ndim else sigma
