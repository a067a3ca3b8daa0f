r"""An image prior made of a diffusers pipeline: four parts, one for each thing that differs between models.

    family      how prompts become inputs of the network, and how the network is called
    view        network -> D: what it predicts, and at which noise levels        (`levels`, on the views of `modeseek.core.denoiser`)
    codec       image <-> x                                                    (`codecs`)
    sizes       event, image_size, sigmas, data_std

Prompts are encoded once, when a denoiser is made. Classifier-free guidance (`modeseek.core.guidance`) asks the network once, on the
concatenated batch [D_c, D_u], and on D_c's half alone where nothing is guided. x keeps its own dtype: only what enters the network is
cast to the network's, so states and noise levels stay float32 beside a bfloat16 network. Gradients never flow through the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import Denoiser, Network
from modeseek.core.errors import InvalidInput, OutOfMemory
from modeseek.core.guidance import EVERYWHERE, GuidedPair, check_guidance
from modeseek.core.libraries import quiet_libraries
from modeseek.priors.pipelines.codecs import Codec
from modeseek.priors.pipelines.lora import LowRankAuxiliary

Conditions = dict[str, Tensor]
"""Inputs of a network besides z and t, each (prompts, ...)."""

GuidanceKind = Literal["classifier-free", "embedded", "none"]
"""Two answers of one network; one answer of a network told the scale; or no condition, so that D_c = D_u and guidance is an identity."""


class Family(Protocol):
    """What one architecture adds.

    Attributes:
        guidance: how it is guided.
        lora_targets: ends of the names of the layers that a LoRA adapts.
    """

    @property
    def guidance(self) -> GuidanceKind: ...
    @property
    def lora_targets(self) -> tuple[str, ...]: ...
    @property
    def network(self) -> nn.Module:
        """The denoising network, looked up in the pipeline at each call, so that its owner may compile or replace it."""
        ...

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        """The inputs for each prompt."""
        ...

    def opposite(self, negative: str) -> Conditions:
        """The inputs of D_u, for one item."""
        ...

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The network's prediction at state z (batch, *event) and time t (batch,)."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class PipelinePrior:
    """A frozen diffusers pipeline as an `ImagePrior`.

    `pipeline` is diffusers' own object, open to its switches: `prior.pipeline.enable_attention_slicing()`, `.enable_model_cpu_offload()`,
    `.vae.enable_tiling()`, `prior.pipeline.unet = torch.compile(prior.pipeline.unet)`. `dataclasses.replace(prior, data_std=0.8)` makes a
    variant. Attributes and methods are those of `modeseek.priors.base.ImagePrior`.
    """

    pipeline: Any = field(repr=False)
    family: Family = field(repr=False)
    view: Callable[[Network], Denoiser] = field(repr=False)
    codec: Codec = field(repr=False)
    event: tuple[int, int, int]
    image_size: tuple[int, int]
    sigmas: tuple[float, float]
    data_std: float
    device: torch.device

    @property
    def distilled(self) -> bool:
        return self.family.guidance == "embedded"

    def denoiser(
        self, prompts: Sequence[str], *, guidance: float = 7.5, negative: str = "", interval: tuple[float, float] = EVERYWHERE
    ) -> Denoiser:
        """D for one prompt an item; one network call, on the doubled batch where it is guided.

        Args:
            prompts: one an item of the batch; x may hold any multiple of them, copies of the whole batch one after another.
            guidance: s of D_u + s (D_c - D_u). A guidance-distilled network (Flux dev) takes it as an input instead.
            negative: prompt of D_u.
            interval: noise levels at which to guide.

        Raises:
            InvalidInput: an empty prompt, a bare string, a prompt for a model without text, or a setting that this model does not have.
        """
        check_guidance(guidance, interval)
        conditions = self._conditions(prompts)
        if self.family.guidance == "none" and negative:
            raise InvalidInput(f"this model is unconditional: it takes no negative prompt, got {negative!r}")
        if self.distilled:
            if negative or interval != EVERYWHERE:
                raise InvalidInput("this network has its guidance distilled into it: it takes neither a negative prompt nor an interval")
            conditions["guidance"] = torch.full((len(prompts),), float(guidance), device=self.device)
        conditional = ConditionedDenoiser(prior=self, conditions=conditions)
        if self.family.guidance != "classifier-free" or guidance == 1:
            return conditional
        with torch.no_grad(), quiet_libraries(), memory_advice("the negative prompt"):
            opposite = {name: value.expand(len(prompts), *value.shape[1:]) for name, value in self.family.opposite(negative).items()}
        doubled = Doubled(prior=self, conditions=conditions, opposite=opposite)
        return GuidedPair(denoiser=conditional, pair=doubled, scale=guidance, interval=interval)

    def encode(self, image: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """(batch, 3, height, width) in [0, 1] -> x, differentiable; the posterior's mean, or a draw of it where `rng` is given."""
        if image.shape[1:] != (3, *self.image_size):
            height, width = self.image_size
            words = f"this prior encodes images (batch, 3, {height}, {width}), got {tuple(image.shape)}"
            raise InvalidInput(f"{words}; resize them, or load it with image_size=")
        with memory_advice(f"encoding {len(image)} images of {self.image_size[0]} x {self.image_size[1]}"):
            return self.codec.encode(image.to(self.device), rng)

    def decode(self, x: Tensor) -> Tensor:
        """x -> (batch, 3, height, width), about [0, 1], differentiable, not clamped."""
        self._check(x)
        with memory_advice(f"decoding {len(x)} images of {self.image_size[0]} x {self.image_size[1]}"):
            return self.codec.decode(x)

    def auxiliary(self, prompts: Sequence[str], *, rank: int = 4, seed: int = 0) -> nn.Module:
        """D_aux for VSD: this network with a fresh LoRA, unguided, called `(x, sigma)`; its parameters and state are the LoRA's alone.

        The base network is shared: the LoRA acts only inside the auxiliary's own calls, and this prior answers as before, bit by bit.

        Raises:
            InvalidInput: the rank is below 1.
            MissingPackage: peft is not installed.
        """
        conditions = self._conditions(prompts)
        if self.distilled:
            conditions["guidance"] = torch.ones(len(prompts), device=self.device)
        denoiser = ConditionedDenoiser(prior=self, conditions=conditions, learning=True)
        return LowRankAuxiliary(denoiser, self.family.network, targets=self.family.lora_targets, rank=rank, seed=seed)

    def evaluate(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """D at x with one row of conditions an item: one network call."""
        self._check(x)

        def network(z: Tensor, t: Tensor) -> Tensor:
            with memory_advice(f"a network call on {len(z)} items of {tuple(z.shape[1:])}"):
                return self.family.predict(z, t, conditions).to(z.dtype)

        return self.view(network)(x, sigma)

    def _conditions(self, prompts: Sequence[str]) -> Conditions:
        if isinstance(prompts, str) or not prompts:
            raise InvalidInput(f"prompts must be a list with one prompt an item, got {prompts!r}")
        with torch.no_grad(), quiet_libraries(), memory_advice(f"{len(prompts)} prompts"):
            return dict(self.family.conditions(prompts))

    def _check(self, x: Tensor) -> None:
        if x.shape[1:] != self.event:
            raise InvalidInput(f"this prior's x is (batch, {', '.join(map(str, self.event))}), got {tuple(x.shape)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionedDenoiser:
    """D_c of a prior at fixed conditions; `learning` lets gradients reach the weights of a LoRA."""

    prior: PipelinePrior
    conditions: Conditions
    learning: bool = False

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.learning and torch.is_grad_enabled()):
            return self.prior.evaluate(x, sigma, tiled(self.conditions, len(x)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Doubled:
    """D_c and D_u of a prior in one network call on the concatenated batch."""

    prior: PipelinePrior
    conditions: Conditions
    opposite: Conditions

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        count = len(x)
        conditions, opposite = tiled(self.conditions, count), tiled(self.opposite, count)
        both = {name: torch.cat([conditions[name], opposite[name]]) for name in conditions}
        strong, weak = self.prior.evaluate(torch.cat([x, x]), sigma.expand(count).repeat(2), both).chunk(2)
        return strong, weak


def tiled(conditions: Conditions, count: int) -> Conditions:
    """Conditions repeated for `count` items, copies of the whole batch one after another.

    Raises:
        InvalidInput: `count` is no multiple of the number of prompts.

    Example:
        >>> tiled({"class": torch.tensor([3, 8])}, 4)
        {'class': tensor([3, 8, 3, 8])}
    """
    prompts = len(next(iter(conditions.values()))) if conditions else 1
    if count % prompts:
        raise InvalidInput(f"x holds {count} items for {prompts} prompts: give one prompt an item, or x as copies of the whole batch")
    return {name: value.repeat(count // prompts, *[1] * (value.ndim - 1)) for name, value in conditions.items()}


@contextmanager
def memory_advice(what: str) -> Iterator[None]:
    """Turn "out of memory" into an error that says what lowers the need."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises the plain kind
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        advice = "fewer images or samples at once, a smaller image_size, dtype='bfloat16', prior.pipeline.enable_attention_slicing(), "
        advice += "prior.pipeline.vae.enable_tiling() or prior.pipeline.enable_model_cpu_offload()"
        raise OutOfMemory(f"{what} did not fit into memory; what lowers the need: {advice}") from error
