r"""A prior asked with token embeddings that somebody else's text encoder made, and that change from step to step.

threestudio's prompt utilities give embeddings for the cameras of the moment. With Perp-Neg (Armandpour et al. 2023) they give more prompts
to be pushed off, each by the part of its direction that is perpendicular to the prompt's, with weights w_i <= 0:

    D = D_u + s (D_c - D_u + sum_i w_i perp(D_i - D_u, D_c - D_u))

One network call, on as many copies of the batch as there are prompts an item.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from modeseek.core.denoiser import Denoiser, per_item
from modeseek.core.guidance import EVERYWHERE, GuidedPair, Interval, perpendicular
from modeseek.priors.pipelines.base import PipelinePrior
from modeseek.priors.pipelines.conditioned import ConditionedDenoiser, tiled
from modeseek.priors.pipelines.lora import LowRankAuxiliary


@dataclass
class Moment:
    """What threestudio says of one step: token embeddings (B, tokens, width), and how it renders.

    Attributes:
        tokens, opposite: of D_c and D_u.
        negatives, weights: Perp-Neg's further prompts (B, k, tokens, width) and their weights (B, k).
        plain: of the prompt without its view, for VSD's LoRA.
        size: (height, width) of the render.
        latents: whether the render is a latent.
    """

    tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    opposite: Tensor = field(default_factory=lambda: torch.empty(0))
    negatives: Tensor | None = None
    weights: Tensor | None = None
    plain: Tensor = field(default_factory=lambda: torch.empty(0))
    size: tuple[int, int] = (0, 0)
    latents: bool = False


@dataclass(frozen=True, kw_only=True)
class PromptEmbeddingPrior:
    """A prior asked with the embeddings of the moment, whatever prompts are named; an `ImagePrior`."""

    prior: PipelinePrior
    moment: Moment

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    def denoiser(self, prompts: Any, *, guidance: float | None = None, negative: Any = None, interval: Interval = EVERYWHERE) -> Denoiser:
        """D_u + guidance (D_c - D_u) of the moment; with Perp-Neg D_c is moved off the negative prompts (`perpendicular`)."""
        del prompts, negative
        scale = self.prior.default_guidance if guidance is None else guidance
        return GuidedPair(denoiser=self._conditional, pair=self._pair, scale=scale, interval=interval)

    def auxiliary(self, prompts: Any, *, rank: int = 4, seed: int = 0) -> nn.Module:
        """VSD's network, which sees the prompt without its view, as published; it is told no camera."""
        del prompts

        def plain(x: Tensor, sigma: Tensor) -> Tensor:
            return ConditionedDenoiser(prior=self.prior, conditions=lambda: {"tokens": self.moment.plain}, learning=True)(x, sigma)

        family = self.prior.family
        return LowRankAuxiliary(plain, lambda: family.network, targets=family.lora_targets, rank=rank, seed=seed, device=self.prior.device)

    def _conditional(self, x: Tensor, sigma: Tensor) -> Tensor:
        return ConditionedDenoiser(prior=self.prior, conditions=lambda: {"tokens": self.moment.tokens})(x, sigma)

    @torch.no_grad()
    def _pair(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        now, count = self.moment, len(x)
        further = [] if now.negatives is None else list(now.negatives.unbind(1))
        prompts = [now.tokens, now.opposite, *further]
        tokens = torch.cat([tiled({"tokens": one}, count)["tokens"] for one in prompts])
        asked = x.repeat(len(prompts), *[1] * (x.ndim - 1)), sigma.expand(count).repeat(len(prompts))
        strong, weak, *away = self.prior.evaluate(*asked, {"tokens": tokens}).chunk(len(prompts))
        if now.weights is not None:
            towards = strong - weak
            for other, weight in zip(away, tiled({"weights": now.weights}, count)["weights"].T, strict=True):
                strong = strong + per_item(weight.to(x), x) * perpendicular(other - weak, towards)
        return strong, weak


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, where the size differs."""
    return image if image.shape[-2:] == size else interpolate(image, size=size, mode="bilinear", antialias=True)
