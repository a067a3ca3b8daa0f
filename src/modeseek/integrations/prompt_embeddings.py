r"""A prior whose prompts are token embeddings made by another program's text encoder, which change from step to step.

threestudio's prompt utilities return embeddings for the current cameras. With Perp-Neg (Armandpour et al. 2023) they return further prompts
to be moved away from, each by the part of its direction that is perpendicular to the prompt's, with weights w_i <= 0:

    D = D_u + s (D_c - D_u + sum_i w_i perp(D_i - D_u, D_c - D_u))

One network call, on as many copies of the batch as there are prompts per item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from modeseek.core.denoiser import Denoiser, as_sigma, per_item
from modeseek.core.guidance import EVERYWHERE, Interval, check_guidance, perpendicular
from modeseek.priors.pipelines.base import PipelinePrior
from modeseek.priors.pipelines.conditioned import ConditionedDenoiser, tiled
from modeseek.priors.pipelines.lora import LowRankAuxiliary


@dataclass
class Moment:
    """The current embeddings (B, tokens, width), cameras and render size.

    Attributes:
        tokens, opposite: of D_c and D_u.
        negatives, weights: Perp-Neg's further prompts (B, k, tokens, width) and their weights (B, k).
        plain: of the prompt without its view, for VSD's LoRA.
        cameras: (B, 16), for VSD's LoRA; None: it is given none.
        without_cameras: whether the LoRA gets zeros in place of the cameras.
        size: (height, width) of the render.
        latents: whether the render is a latent.
    """

    tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    opposite: Tensor = field(default_factory=lambda: torch.empty(0))
    negatives: Tensor | None = None
    weights: Tensor | None = None
    plain: Tensor = field(default_factory=lambda: torch.empty(0))
    cameras: Tensor | None = None
    without_cameras: bool = False
    size: tuple[int, int] = (0, 0)
    latents: bool = False


@dataclass(frozen=True, kw_only=True)
class PromptEmbeddingPrior:
    """A prior called with the current embeddings, whatever prompts are named; an `ImagePrior`.

    Args:
        prior: the model.
        moment: the current embeddings.
        extra: added to the guidance scale where there is no Perp-Neg: 1 for D_c + s (D_c - D_u), as threestudio's SDS writes it.
        lora: the model that VSD's LoRA adapts; None: `prior`.
    """

    prior: PipelinePrior
    moment: Moment
    extra: float = 0.0
    lora: PipelinePrior | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prior, name)

    @property
    def prediction(self) -> str | None:
        """What the network under the LoRA predicts."""
        return (self.prior if self.lora is None else self.lora).prediction

    def denoiser(self, prompts: Any, *, guidance: float | None = None, negative: Any = None, interval: Interval = EVERYWHERE) -> Denoiser:
        """D_u + guidance (D_c - D_u) at the current embeddings; with Perp-Neg D_c is moved away from the negative prompts."""
        del prompts, negative
        scale = self.prior.default_guidance if guidance is None else guidance
        check_guidance(scale, interval)
        return PromptEmbeddingDenoiser(prior=self.prior, moment=self.moment, scale=scale, extra=self.extra, interval=interval)

    def auxiliary(self, prompts: Any, *, rank: int = 4, seed: int = 0) -> nn.Module:
        """VSD's network, which is given the prompt without its view and, where there are cameras, an embedding of them, as published."""
        del prompts
        prior = self.prior if self.lora is None else self.lora

        def plain(x: Tensor, sigma: Tensor) -> Tensor:
            return ConditionedDenoiser(prior=prior, conditions=lambda: {"tokens": self.moment.plain}, learning=True)(x, sigma)

        family = prior.family
        settings: dict[str, Any] = {"targets": family.lora_targets, "rank": rank, "seed": seed, "device": prior.device}
        adapted = LowRankAuxiliary(plain, lambda: family.network, **settings)
        return CameraAuxiliary(adapted, lambda: family.network, self.moment, seed=seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptEmbeddingDenoiser:
    """D at the current embeddings, guided, with Perp-Neg where there are negative prompts."""

    prior: PipelinePrior
    moment: Moment
    scale: float
    extra: float
    interval: Interval

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma, now = as_sigma(sigma, x), self.moment
        scale = self.scale + (self.extra if now.negatives is None else 0.0)
        inside = (sigma >= self.interval[0]) & (sigma <= self.interval[1])
        if not bool(inside.any()) or (scale == 1 and now.negatives is None):
            return ConditionedDenoiser(prior=self.prior, conditions=lambda: {"tokens": now.tokens})(x, sigma)
        further = [] if now.negatives is None else list(now.negatives.unbind(1))
        prompts, count = [now.tokens, now.opposite, *further], len(x)
        tokens = torch.cat([tiled({"tokens": one}, count)["tokens"] for one in prompts])
        copies = x.repeat(len(prompts), *[1] * (x.ndim - 1)), sigma.expand(count).repeat(len(prompts))
        strong, weak, *away = self.prior.evaluate(*copies, {"tokens": tokens}).chunk(len(prompts))
        followed = towards = strong - weak
        if now.weights is not None:
            for other, weight in zip(away, tiled({"weights": now.weights}, count)["weights"].T, strict=True):
                followed = followed + per_item(weight.to(x), x) * perpendicular(other - weak, towards)
        return torch.where(per_item(inside, x), weak + scale * followed, strong)


class CameraAuxiliary(nn.Module):
    """A LoRA whose network also gets the cameras: a two-layer embedding of 16 numbers, added to the network's embedding of the time.

    Where the moment has no cameras it is the LoRA alone. The embedding starts at random, as published, so a fresh network differs from the
    prior where there are cameras.

    Args:
        adapted: the network with its LoRA, called `(x, sigma)`.
        network: returns the shared UNet.
        moment: holds the cameras.
        seed: of the embedding's weights.
    """

    def __init__(self, adapted: LowRankAuxiliary, network: Callable[[], Any], moment: Moment, *, seed: int) -> None:
        super().__init__()
        self.adapted = adapted
        self._network, self._moment = network, moment
        width = network().time_embedding.linear_2.out_features
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.embedding = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.embedding.to(next(adapted.parameters()))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        cameras = self._moment.cameras
        if cameras is None:
            return self.adapted(x, sigma)
        cameras = torch.zeros_like(cameras) if self._moment.without_cameras else cameras
        cameras = cameras.to(next(self.embedding.parameters()))
        embedded = self.embedding(tiled({"cameras": cameras}, len(x))["cameras"])
        with added_to_time(self._network(), embedded):
            return self.adapted(x, sigma)


@contextmanager
def added_to_time(network: Any, embedded: Tensor) -> Iterator[None]:
    """Add a tensor to the output of a UNet's time embedding for the length of a `with` block."""
    hook = network.time_embedding.register_forward_hook(lambda module, inputs, output: output + embedded.to(output.dtype))
    try:
        yield
    finally:
        hook.remove()


def resized(image: Tensor, size: tuple[int, int], *, antialias: bool) -> Tensor:
    """Bilinear, where the size differs. threestudio resizes renders without antialiasing, which differs where it makes them smaller."""
    return image if image.shape[-2:] == size else interpolate(image, size=size, mode="bilinear", antialias=antialias)
