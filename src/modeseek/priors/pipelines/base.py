r"""An image prior made of a diffusers pipeline, in four parts that differ between models.

    family      how prompts become inputs of the network, and how the network is called
    levels      network -> D: what it predicts, and at which noise levels        (`levels`, on the adapters of `modeseek.core.denoiser`)
    codec       image <-> x                                                      (`codecs`)
    sizes       event, image_size, data_std

The pipeline belongs to its owner: it is read at every call, and nothing of it is moved, cast or frozen. Prompts are encoded once, and again
when a text encoder, a tokenizer or an adapter on them has changed (`snapshot`). Classifier-free guidance (`modeseek.core.guidance`)
evaluates the network once, on the concatenated batch [D_c, D_u], and on D_c's half alone if no item is guided. x keeps its own dtype: only
the network's inputs are cast to the network's dtype, and noise levels are at least float32. Gradients never flow through the network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from modeseek.core.denoiser import Denoiser, DiscreteLevels
from modeseek.core.errors import DistilledModel, InvalidInput
from modeseek.core.guidance import EVERYWHERE, GuidedPair, check_guidance
from modeseek.priors.pipelines.codecs import Codec
from modeseek.priors.pipelines.conditioned import ConditionedDenoiser, Conditions, Doubled, Encoded, memory_advice
from modeseek.priors.pipelines.levels import Levels
from modeseek.priors.pipelines.lora import LowRankAuxiliary
from modeseek.priors.pipelines.snapshot import check_dropout
from modeseek.priors.pipelines.text import Negative, PromptEmbeds, Prompts, negatives_of

GuidanceKind = Literal["classifier-free", "embedded", "none"]
"""Two evaluations of one network; one evaluation of a network that takes the scale as an input; or no condition, so that D_c = D_u."""


class Family(Protocol):
    """The part of a prior that is specific to one architecture.

    Attributes:
        guidance: how it is guided.
        lora_targets: ends of the names of the layers that a LoRA adapts.
        kinds: kinds of `Levels` that the network can be called with; t is then a timestep, in (0, 1), or ln(sigma)/4.
        encoders: parts of the pipeline that conditions are computed with.
        default_guidance: the scale used where none is given.
        distillation: why the model is treated as distilled to need no guidance; None if it is not.
    """

    @property
    def guidance(self) -> GuidanceKind: ...
    @property
    def lora_targets(self) -> tuple[str, ...]: ...
    @property
    def kinds(self) -> tuple[str, ...]: ...
    @property
    def encoders(self) -> tuple[str, ...]: ...
    @property
    def default_guidance(self) -> float: ...
    @property
    def distillation(self) -> str | None: ...
    @property
    def network(self) -> nn.Module:
        """The denoising network, looked up in the pipeline at each call, so that its owner may compile or replace it."""
        ...

    def conditions(self, prompts: Prompts, **settings: Any) -> Conditions:
        """The inputs for each prompt."""
        ...

    def opposite(self, negatives: Sequence[str | None] | PromptEmbeds, **settings: Any) -> Conditions:
        """The inputs of D_u, one row for each negative prompt; what is missing is D_c's."""
        ...

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The network's prediction at state z (batch, *event) and time t (batch,)."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class PipelinePrior:
    """A diffusers pipeline as an `ImagePrior`.

    `pipeline` is diffusers' own object, open to its switches: `prior.pipeline.enable_attention_slicing()`, `.enable_model_cpu_offload()`,
    `.vae.enable_tiling()`, `prior.pipeline.unet = torch.compile(prior.pipeline.unet)`. LoRAs, textual inversions and schedulers that are
    loaded or replaced act from the next call on. `dataclasses.replace(prior, data_std=0.8)` makes a variant.

    Args:
        pipeline: of a supported family.
        family: its adapter.
        levels: returns the current `Levels`.
        codec: between images and x.
        event: shape of one x.
        image_size: (height, width) in pixels.
        data_std: standard deviation of x over the data.
        device: where x lives.
        default_scale: guidance scale used where none is given; None: the family's.
        settings: further conditions of every denoiser, such as {"clip_skip": 1}; see `with_settings`.
    """

    pipeline: Any = field(repr=False)
    family: Family = field(repr=False)
    levels: Callable[[], Levels] = field(repr=False)
    codec: Codec = field(repr=False)
    event: tuple[int, int, int]
    image_size: tuple[int, int]
    data_std: float
    device: torch.device
    default_scale: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def sigmas(self) -> tuple[float, float]:
        """(lowest, highest) noise level of the current scheduler's training range."""
        return self.levels().sigmas

    @property
    def distilled(self) -> bool:
        """Whether guidance was distilled into the network, which takes the scale as an input."""
        return self.family.guidance == "embedded"

    @property
    def timesteps(self) -> DiscreteLevels | None:
        """The noise levels of the scheduler's own timesteps; None for a flow or an EDM network."""
        return self._discrete.get("levels")

    @property
    def prediction(self) -> str | None:
        """What a network on discrete timesteps predicts, "eps", "v" or "x0"; None for others."""
        return self._discrete.get("prediction")

    @property
    def _discrete(self) -> dict[str, Any]:
        levels = self.levels()
        return getattr(levels.view, "keywords", {}) if levels.kind == "discrete" else {}

    @property
    def default_guidance(self) -> float:
        """The scale used where none is given: the pipeline's own default, or 1 for a model distilled to need no guidance.

        Warns:
            DistilledModel: the model is treated as one that needs no guidance.
        """
        if self.default_scale is not None:
            return self.default_scale
        why = self.family.distillation
        if why is not None:
            words = f"this model is treated as distilled to need no guidance ({why}), so the scale is 1; give guidance= for another"
            warnings.warn(words, DistilledModel, stacklevel=3)
        return self.family.default_guidance

    def with_settings(self, **settings: Any) -> PipelinePrior:
        """This prior with further conditions in every denoiser, such as `clip_skip=1` or `ip_adapter_image=image`."""
        return replace(self, settings={**self.settings, **settings})

    def denoiser(
        self,
        prompts: Prompts,
        *,
        guidance: float | None = None,
        negative: Negative = None,
        interval: tuple[float, float] = EVERYWHERE,
        **settings: Any,
    ) -> Denoiser:
        """D for one prompt per item; one network call, on the doubled batch where it is guided.

        Args:
            prompts: one per item of the batch, or their `PromptEmbeds`; x may hold any multiple of them, copies of the whole batch one
                after another.
            guidance: s of D_u + s (D_c - D_u); None: `default_guidance`. A guidance-distilled network (Flux dev, LCM) takes it as an input.
            negative: prompt of D_u, one for all or one per item; None: what the pipeline takes where no negative prompt is given.
            interval: noise levels at which to guide.
            settings: further conditions that the family takes, such as `clip_skip` and `ip_adapter_image` of Stable Diffusion.

        Warns:
            DistilledModel: no scale is given, and the model is treated as one that needs no guidance.

        Raises:
            InvalidInput: an empty prompt, a bare string, a prompt for a model without text, or a setting that this model does not have.
        """
        scale = self.default_guidance if guidance is None else float(guidance)
        check_guidance(scale, interval)
        count = checked_count(prompts)
        negatives = negatives_of(negative, count)
        plain = isinstance(negatives, list) and not any(negatives)
        kind = self.family.guidance
        if kind == "none" and not plain:
            raise InvalidInput(f"this model is unconditional: it takes no negative prompt, got {negative!r}")
        if self.distilled and (not plain or interval != EVERYWHERE):
            raise InvalidInput("this network has its guidance distilled into it: it takes neither a negative prompt nor an interval")
        settings = {**self.settings, **settings}
        conditional = ConditionedDenoiser(prior=self, conditions=self.encoded(prompts, scale, settings))
        if kind != "classifier-free" or scale == 1:
            return conditional
        opposite = Encoded(self, lambda: self._opposite(negatives, settings))
        doubled = Doubled(prior=self, conditions=conditional.conditions, opposite=opposite)
        pair: type[GuidedPair] = getattr(self.family, "guided_pair", GuidedPair)
        return pair(denoiser=conditional, pair=doubled, scale=scale, interval=interval)

    def encode(self, image: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
        """(batch, 3 or 1, height, width) in [0, 1] -> x, differentiable; the posterior's mean, or a draw of it where `rng` is given.

        Raises:
            InvalidInput: an image of another size, or the autoencoder was replaced by one with another latent shape.
        """
        if image.ndim == 4 and image.shape[1] == 1:  # a grey image is one of three equal channels
            image = image.expand(-1, 3, -1, -1)
        if image.shape[1:] != (3, *self.image_size):
            height, width = self.image_size
            words = f"this prior encodes images (batch, 3, {height}, {width}), got {tuple(image.shape)}"
            raise InvalidInput(f"{words}; resize them, or load it with image_size=")
        with memory_advice(f"encoding {len(image)} images of {self.image_size[0]} x {self.image_size[1]}"):
            x = self.codec.encode(image.to(self.device), rng)
        if x.shape[1:] != self.event:
            raise InvalidInput(
                f"the autoencoder was replaced by one whose x is {tuple(x.shape[1:])}, not {self.event}: load the prior again"
            )
        return x

    def decode(self, x: Tensor) -> Tensor:
        """x -> (batch, 3, height, width), about [0, 1], differentiable, not clamped."""
        self._check(x)
        with memory_advice(f"decoding {len(x)} images of {self.image_size[0]} x {self.image_size[1]}"):
            return self.codec.decode(x)

    def auxiliary(self, prompts: Prompts, *, rank: int = 4, seed: int = 0, **settings: Any) -> nn.Module:
        """D_aux for VSD: this network with a fresh LoRA, unguided, called `(x, sigma)`; its parameters and state are the LoRA's alone.

        The base network is shared and not changed: the LoRA acts inside the auxiliary's own calls only.

        Raises:
            InvalidInput: the rank is below 1, or no layer of the network can be adapted.
        """
        checked_count(prompts)
        conditions = self.encoded(prompts, 1.0, {**self.settings, **settings})
        denoiser = ConditionedDenoiser(prior=self, conditions=conditions, learning=True)
        targets = self.family.lora_targets
        return LowRankAuxiliary(denoiser, lambda: self.family.network, targets=targets, rank=rank, seed=seed, device=self.device)

    def evaluate(self, x: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """D at x with one row of conditions per item: one network call.

        Raises:
            InvalidInput: x of another shape, or a scheduler of a kind that the network is not called with.
        """
        self._check(x)
        levels = self.levels()
        if levels.kind not in self.family.kinds:
            words = f"{type(self.pipeline.scheduler).__name__} states {levels.kind} noise levels"
            raise InvalidInput(f"{words}, with which {type(self.pipeline).__name__} is not called; it takes {', '.join(self.family.kinds)}")
        check_dropout(self.family.network, "the denoising network")
        time = getattr(self.family, "flow_time", 1.0) if levels.kind == "flow" else 1.0

        def network(z: Tensor, t: Tensor) -> Tensor:
            with memory_advice(f"a network call on {len(z)} items of {tuple(z.shape[1:])}"):
                return self.family.predict(z, t * time, conditions).to(z.dtype)

        return levels.view(network)(x, sigma)

    def encoded(self, prompts: Prompts, scale: float, settings: Mapping[str, Any]) -> Encoded:
        """The conditions of some prompts, encoded now, and again when their encoders have changed."""

        def make() -> Conditions:
            conditions = dict(self.family.conditions(prompts, **settings))
            if self.distilled:
                conditions["guidance"] = torch.full((len(prompts),), float(scale), device=self.device)
            return conditions

        return Encoded(self, make)

    def _opposite(self, negatives: list[str | None] | PromptEmbeds, settings: Mapping[str, Any]) -> Conditions:
        """One row for each negative prompt; equal ones are encoded once."""
        alike = isinstance(negatives, list) and len(set(negatives)) == 1 and not settings
        found = self.family.opposite(negatives[:1] if alike else negatives, **settings)
        return {name: value.expand(len(negatives), *value.shape[1:]) for name, value in found.items()}

    def _check(self, x: Tensor) -> None:
        if x.shape[1:] != self.event:
            raise InvalidInput(f"this prior's x is (batch, {', '.join(map(str, self.event))}), got {tuple(x.shape)}")


def checked_count(prompts: Prompts) -> int:
    """How many prompts there are.

    Raises:
        InvalidInput: a bare string, or none.
    """
    if isinstance(prompts, str) or prompts is None or not len(prompts):
        raise InvalidInput(f"prompts must be a list with one prompt per item, got {prompts!r}")
    return len(prompts)
