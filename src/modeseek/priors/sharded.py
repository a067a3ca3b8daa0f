"""An image prior whose work is sharded over the ranks of a run (`modeseek.scaling.ranks`).

Network calls, encoding and decoding are computed for the local shard of the batch and gathered; every rank holds all weights.
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
    """The prior sharded over the ranks; the prior itself on one rank."""
    return prior if ranks.world == 1 else ShardedPrior(prior=prior, ranks=ranks)  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class ShardedPrior:
    """A prior evaluated on several ranks; an `ImagePrior`. Every rank must make the same calls with the same x.

    Args:
        prior: the prior of this rank.
        ranks: the processes of the run.
    """

    prior: ImagePrior
    ranks: Ranks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def denoiser(
        self, prompts: Sequence[str], *, guidance: float | None = None, negative: Any = None, interval: Interval = EVERYWHERE
    ) -> Denoiser:
        """D of the prior, each item of x evaluated on one rank; Monte-Carlo samples are items too. One denoiser call.

        Raises:
            InvalidInput: embeddings in place of texts, or another number of negative prompts than of prompts.
        """
        if not isinstance(prompts, Sequence) or not (negative is None or isinstance(negative, str | Sequence)):
            raise InvalidInput("on several processes conditions are texts: give prompts in place of embeddings")
        negatives = (negative,) * len(prompts) if negative is None or isinstance(negative, str) else tuple(negative)
        if len(negatives) != len(prompts):
            raise InvalidInput(f"{len(negatives)} negative prompts for {len(prompts)} prompts: give one text, or one per prompt")
        settings = {"guidance": guidance, "interval": interval}
        pairs = tuple(zip(prompts, negatives, strict=True))
        return ShardedDenoiser(prior=self.prior, ranks=self.ranks, prompts=pairs, settings=settings)

    def encode(self, image: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """x of all images, differentiable with respect to the local shard; a posterior sample is drawn in full on every rank."""
        if rng is not None:
            return self.ranks.local_gradient(self.prior.encode(image, rng=rng))
        return self.ranks.map_shards(len(image), lambda local: self.prior.encode(image[local]))

    def decode(self, x: Tensor) -> Tensor:
        """Images of all x, differentiable with respect to the local shard."""
        return self.ranks.map_shards(len(x), lambda local: self.prior.decode(x[local]))

    def auxiliary(self, prompts: Sequence[str], *, rank: int = 4, seed: int = 0) -> nn.Module:
        """D_aux for VSD, each item on one rank. It trains on all items if `Ranks.sum_gradients` is installed on its optimiser.

        Raises:
            InvalidInput: prompts that differ.
        """
        if len(set(prompts)) != 1:
            raise InvalidInput(f"VSD on several processes takes one prompt for all items, got {sorted(set(prompts))}")
        made = self.prior.auxiliary(prompts[:1], rank=rank, seed=seed)
        complete = made.forward
        made.forward = lambda x, sigma: self.ranks.map_shards(len(x), lambda local: complete(x[local], _levels(sigma, local)))  # type: ignore[method-assign]
        return made


@dataclass(frozen=True, kw_only=True)
class ShardedDenoiser:
    """D with this rank's shard of the items evaluated locally. Item k has the k-th (prompt, negative prompt), modulo their number; they
    are encoded on first use."""

    prior: ImagePrior
    ranks: Ranks
    prompts: tuple[tuple[str, str | None], ...]
    settings: dict[str, Any]
    bound: dict[tuple[tuple[str, str | None], ...], Denoiser] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._bound(slice(0, len(self.prompts)), len(self.prompts))  # wrong prompts and settings are refused here, on every rank

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        count = len(x)
        if count % len(self.prompts):
            raise InvalidInput(
                f"x holds {count} items for {len(self.prompts)} prompts: give one prompt per item, or x as copies of the batch"
            )
        return self.ranks.map_shards(count, lambda local: self._bound(local, count)(x[local], _levels(sigma, local)))

    def _bound(self, local: slice, count: int) -> Denoiser:
        needed = tuple(self.prompts[k % len(self.prompts)] for k in range(count)[local])
        needed = needed[:1] if len(set(needed)) == 1 else needed  # one prompt serves any number of items
        if needed not in self.bound:
            prompts, negatives = zip(*needed, strict=True)
            self.bound[needed] = self.prior.denoiser(
                prompts, negative=negatives[0] if len(set(negatives)) == 1 else negatives, **self.settings
            )
        return self.bound[needed]


def _levels(sigma: Tensor, local: slice) -> Tensor:
    return sigma[local] if sigma.ndim else sigma
