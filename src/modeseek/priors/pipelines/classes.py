"""Models without text: unconditional and class-conditional UNets in pixels (Ho et al. 2020), and DiT on latents (Peebles & Xie 2023).

A prompt is a class, by number or by name where the model's folder names its classes (`id2label` in model_index.json). DiT has a class of
its own for "no class"; a pixel UNet has none that it could be known by, so guiding it takes `negative` = the class to push away from.
An unconditional model takes empty prompts, one an item, and guidance changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput
from modeseek.priors.pipelines.base import Conditions, GuidanceKind
from modeseek.priors.pipelines.stable_diffusion import ATTENTION

CONVOLUTIONS = ("conv1", "conv2")


@dataclass(frozen=True, kw_only=True)
class Unconditional:
    """Calls of a pixel UNet that knows no condition."""

    pipeline: Any
    device: torch.device
    guidance: GuidanceKind = "none"
    lora_targets: tuple[str, ...] = ATTENTION + CONVOLUTIONS

    @property
    def network(self) -> nn.Module:
        return self.pipeline.unet

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        if any(prompts):
            raise InvalidInput(f"this model is unconditional: give an empty prompt for each item, not {next(filter(None, prompts))!r}")
        return {"items": torch.zeros(len(prompts), device=self.device)}  # only counts the items of a batch

    def opposite(self, negative: str) -> Conditions:
        raise AssertionError("an unconditional model is not guided")

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        unet = self.pipeline.unet
        return unet(z.to(unet.dtype), t, return_dict=False)[0][:, : z.shape[1]]  # a learned variance may follow


@dataclass(frozen=True, kw_only=True)
class ClassConditional:
    """Inputs and calls of a network of `classes` classes; `nothing` is the number that stands for no class, if any."""

    pipeline: Any
    device: torch.device
    part: str
    classes: int
    nothing: int | None = None
    names: dict[str, int] = field(default_factory=dict)
    guidance: GuidanceKind = "classifier-free"
    lora_targets: tuple[str, ...] = ATTENTION + CONVOLUTIONS

    @property
    def network(self) -> nn.Module:
        return getattr(self.pipeline, self.part)

    def conditions(self, prompts: Sequence[str]) -> Conditions:
        return {"class": torch.tensor([self._number(prompt) for prompt in prompts], device=self.device)}

    def opposite(self, negative: str) -> Conditions:
        if negative:
            return self.conditions([negative])
        if self.nothing is None:
            raise InvalidInput(
                "this model has no class for 'no class': give guidance=1, or the class to push away from as the negative prompt"
            )
        return {"class": torch.tensor([self.nothing], device=self.device)}

    def predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        network: Any = self.network
        output = network(z.to(network.dtype), timestep=t, class_labels=conditions["class"], return_dict=False)[0]
        return output[:, : z.shape[1]]  # a learned variance may follow

    def _number(self, prompt: str) -> int:
        number = self.names.get(prompt.strip(), int(prompt) if prompt.strip().isdecimal() else -1)
        if not 0 <= number < self.classes:
            names = f", or one of {', '.join(list(self.names)[:8])} ..." if self.names else ""
            raise InvalidInput(f"the prompt {prompt!r} names no class of this model: give a number from 0 to {self.classes - 1}{names}")
        return number


def class_names(labels: dict[str, str]) -> dict[str, int]:
    """Names to numbers; a class may have several names, separated by commas.

    Example:
        >>> class_names({"0": "tench, Tinca tinca", "1": "goldfish"})
        {'tench': 0, 'Tinca tinca': 0, 'goldfish': 1}
    """
    return {name.strip(): int(number) for number, names in labels.items() for name in names.split(",")}
