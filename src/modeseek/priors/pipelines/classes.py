"""Models without text: unconditional and class-conditional UNets in pixels (Ho et al. 2020), and DiT on latents (Peebles & Xie 2023).

A prompt is a class, by number or by name where the model's folder names its classes (`id2label` in model_index.json). DiT has a class of
its own for "no class"; a pixel UNet states none, so guiding it needs `negative`, the class to push away from. An unconditional model takes
empty prompts, one per item, and guidance changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput
from modeseek.priors.pipelines.base import Conditions, GuidanceKind
from modeseek.priors.pipelines.distilled import pipeline_guidance
from modeseek.priors.pipelines.text import PromptEmbeds, Prompts
from modeseek.priors.pipelines.text_family import ATTENTION

CONVOLUTIONS = ("conv1", "conv2")


@dataclass(frozen=True, kw_only=True)
class Unconditional:
    """Calls of an unconditional pixel UNet."""

    pipeline: Any
    device: torch.device
    guidance: GuidanceKind = "none"
    lora_targets: tuple[str, ...] = ATTENTION + CONVOLUTIONS
    kinds: ClassVar[tuple[str, ...]] = ("discrete", "edm")
    encoders: ClassVar[tuple[str, ...]] = ()
    default_guidance: ClassVar[float] = 1.0
    distillation: ClassVar[str | None] = None

    @property
    def network(self) -> nn.Module:
        return self.pipeline.unet

    def conditions(self, prompts: Prompts, **settings: Any) -> Conditions:
        given = [prompt for prompt in plain(prompts, settings) if prompt]
        if given:
            raise InvalidInput(f"this model is unconditional: give an empty prompt for each item, not {given[0]!r}")
        return {"items": torch.zeros(len(prompts), device=self.device)}  # only counts the items of a batch

    def opposite(self, negatives: Sequence[str | None] | PromptEmbeds, **settings: Any) -> Conditions:
        raise AssertionError("an unconditional model is not guided")

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        unet = self.pipeline.unet
        return unet(z.to(unet.dtype), t, return_dict=False)[0][:, : z.shape[1]]  # a learned variance may follow


@dataclass(frozen=True, kw_only=True)
class ClassConditional:
    """Inputs and calls of a network of `classes` classes; `no_class` is the number that stands for no class, if any."""

    pipeline: Any
    device: torch.device
    part: str
    classes: int
    no_class: int | None = None
    names: dict[str, int] = field(default_factory=dict)
    guidance: GuidanceKind = "classifier-free"
    lora_targets: tuple[str, ...] = ATTENTION + CONVOLUTIONS
    kinds: ClassVar[tuple[str, ...]] = ("discrete", "edm")
    encoders: ClassVar[tuple[str, ...]] = ()
    distillation: ClassVar[str | None] = None
    examples: ClassVar[tuple[str, str]] = ("0", "1")
    """Two prompts that any such model takes."""

    @property
    def network(self) -> nn.Module:
        return getattr(self.pipeline, self.part)

    @property
    def fixed_size(self) -> bool:
        """A transformer (DiT) takes images of one size."""
        return self.part == "transformer"

    @property
    def default_guidance(self) -> float:
        """The pipeline's default; 1 for a model without a class for "no class"."""
        return pipeline_guidance(self.pipeline) if self.no_class is not None else 1.0

    def conditions(self, prompts: Prompts, **settings: Any) -> Conditions:
        return {"class": torch.tensor([self._number(prompt) for prompt in plain(prompts, settings)], device=self.device)}

    def opposite(self, negatives: Sequence[str | None] | PromptEmbeds, **settings: Any) -> Conditions:
        texts = plain(negatives, settings)
        if self.no_class is None and not all(texts):
            raise InvalidInput(
                "this model has no class for 'no class': give guidance=1, or the class to push away from as the negative prompt"
            )
        return {"class": torch.tensor([self._number(text) if text else self.no_class for text in texts], device=self.device)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        network: Any = self.network
        output = network(z.to(network.dtype), timestep=t, class_labels=conditions["class"], return_dict=False)[0]
        return output[:, : z.shape[1]]  # a learned variance may follow

    def _number(self, prompt: Any) -> int:
        if not isinstance(prompt, str):
            raise InvalidInput(f"a class is given as a text, its number or its name, got {prompt!r}")
        number = self.names.get(prompt.strip(), int(prompt) if prompt.strip().isdecimal() else -1)
        if not 0 <= number < self.classes:
            names = f", or one of {', '.join(list(self.names)[:8])} ..." if self.names else ""
            raise InvalidInput(f"the prompt {prompt!r} names no class of this model: give a number from 0 to {self.classes - 1}{names}")
        return number


def plain(prompts: Sequence[str | None] | PromptEmbeds, settings: dict[str, Any]) -> list[str | None]:
    """The prompts of a model without text.

    Raises:
        InvalidInput: embeddings or further conditions, which it does not take.
    """
    if isinstance(prompts, PromptEmbeds):
        raise InvalidInput("this model has no text encoder: it takes neither prompts of words nor embeddings")
    if settings:
        raise InvalidInput(f"this model has no condition {', '.join(settings)}")
    return list(prompts)


def class_names(labels: dict[str, str]) -> dict[str, int]:
    """Names to numbers; a class may have several names, separated by commas.

    Example:
        >>> class_names({"0": "tench, Tinca tinca", "1": "goldfish"})
        {'tench': 0, 'Tinca tinca': 0, 'goldfish': 1}
    """
    return {name.strip(): int(number) for number, names in labels.items() for name in names.split(",")}
