"""Whether the parts of a pipeline are still as they were when something was computed from them.

A prompt is encoded once, and again when its text encoder has changed: replaced, trained, given a LoRA or other adapter weights, or a
textual inversion. Comparing costs a few microseconds per module and no work on the device. A part that was removed counts as
unchanged: prompts that were encoded before stay valid.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from modeseek.core.errors import InvalidInput


@dataclass(frozen=True)
class Snapshot:
    """The state of some parts of a pipeline, without a copy of their weights."""

    pipeline: Any
    parts: dict[str, tuple[Any, ...]]

    @classmethod
    def of(cls, pipeline: Any, names: Iterable[str]) -> Snapshot:
        """The current state of the named parts."""
        return cls(pipeline, {name: _state(getattr(pipeline, name, None)) for name in names})

    def is_current(self) -> bool:
        """Whether the parts are as they were."""
        for name, before in self.parts.items():
            part = getattr(self.pipeline, name, None)
            if part is not None and not _same(before, _state(part)):
                return False
        return True


def _state(part: Any) -> tuple[Any, ...]:
    if isinstance(part, nn.Module):
        weights: list[tuple[Any, int]] = []
        adapters: list[Any] = []
        for module in part.modules():
            weights += [(weakref.ref(weight), _version(weight)) for weight in module._parameters.values() if weight is not None]
            if hasattr(module, "lora_A"):
                layer: Any = module
                adapters.append(
                    (tuple(layer.active_adapters), layer.disable_adapters, tuple(layer.scaling.items()), tuple(layer.merged_adapters))
                )
        return part, weights, adapters, part.training
    return (part, [], len(part) if hasattr(part, "__len__") else None, None)


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


def _same(before: tuple[Any, ...], now: tuple[Any, ...]) -> bool:
    if before[0] is not now[0] or len(before[1]) != len(now[1]) or before[2:] != now[2:]:
        return False
    return all(old[0]() is new[0]() and old[1] == new[1] for old, new in zip(before[1], now[1], strict=True))


def check_dropout(part: Any, title: str) -> None:
    """Raise `InvalidInput` if a module is in training mode and drops activations at random, which makes D random.

    Cost: nothing for a module in evaluation mode.
    """
    if not isinstance(part, nn.Module) or not part.training:
        return
    config = getattr(part, "config", None)
    shares = [module.p for module in part.modules() if isinstance(module, nn.Dropout)]
    shares += [getattr(module, "dropout_prob", 0) for module in part.modules()]  # of class labels
    shares += [getattr(config, name, 0) or 0 for name in ("attention_dropout", "dropout_rate", "dropout")]
    if any(share > 0 for share in shares if isinstance(share, int | float)):
        raise InvalidInput(f"{title} is in training mode and drops activations or labels at random: call .eval() on it")
