"""Denoisers of a prior at given conditions, alone and as the two halves of one batch; conditions follow changes of their encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput, OutOfMemory
from modeseek.core.libraries import quiet_libraries
from modeseek.priors.pipelines.snapshot import Snapshot, check_dropout

if TYPE_CHECKING:
    from modeseek.priors.pipelines.base import PipelinePrior

Conditions = dict[str, Tensor]
"""Inputs of a network besides z and t, each (prompts, ...)."""


class Encoded:
    """Conditions that are computed when made, and again when the parts of the pipeline that they depend on have changed.

    Args:
        prior: with a pipeline and a family.
        make: computes them.
    """

    def __init__(self, prior: PipelinePrior, make: Callable[[], Conditions]) -> None:
        self.prior, self.make = prior, make
        self._conditions = self._encode()

    def __call__(self) -> Conditions:
        if not self._snapshot.is_current():
            self._conditions = self._encode()
        return self._conditions

    def _encode(self) -> Conditions:
        prior = self.prior
        for name in prior.family.encoders:
            check_dropout(getattr(prior.pipeline, name, None), f"the pipeline's {name}")
        with torch.no_grad(), quiet_libraries(), memory_advice("encoding the prompts"):
            made = self.make()
        self._snapshot = Snapshot.of(prior.pipeline, prior.family.encoders)
        return made


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionedDenoiser:
    """D_c of a prior at given conditions; `learning` lets gradients reach the weights of a LoRA."""

    prior: PipelinePrior
    conditions: Callable[[], Conditions]
    learning: bool = False

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.learning and torch.is_grad_enabled()):
            return self.prior.evaluate(x, sigma, tiled(self.conditions(), len(x)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Doubled:
    """D_c and D_u of a prior in one network call on the concatenated batch.

    Raises:
        InvalidInput: called, conditions of different shapes, such as prompt and negative prompt embedded at different lengths.
    """

    prior: PipelinePrior
    conditions: Callable[[], Conditions]
    opposite: Callable[[], Conditions]

    @torch.no_grad()
    def __call__(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        count, x = len(x), x.to(torch.promote_types(x.dtype, torch.float32))  # guidance magnifies what half precision rounds
        conditions = tiled(self.conditions(), count)
        opposite = conditions | tiled(self.opposite(), count)
        for name, value in conditions.items():
            if value.shape != opposite[name].shape:
                shapes = f"{tuple(value.shape[1:])} and {tuple(opposite[name].shape[1:])}"
                raise InvalidInput(f"{name} of the prompt and of the negative prompt differ in shape, {shapes}: embed both at one length")
        both = {name: torch.cat([conditions[name], opposite[name]]) for name in conditions}
        strong, weak = self.prior.evaluate(torch.cat([x, x]), sigma.expand(count).repeat(2), both).chunk(2)
        return strong, weak


def tiled(conditions: Conditions, count: int) -> Conditions:
    """Conditions repeated for `count` items, copies of the batch one after another.

    Raises:
        InvalidInput: `count` is no multiple of the number of prompts.

    Example:
        >>> tiled({"class": torch.tensor([3, 8])}, 4)
        {'class': tensor([3, 8, 3, 8])}
    """
    prompts = len(next(iter(conditions.values()))) if conditions else 1
    if count % prompts:
        raise InvalidInput(f"x holds {count} items for {prompts} prompts: give one prompt per item, or x as copies of the whole batch")
    if count == prompts:
        return conditions
    return {name: value.repeat(count // prompts, *[1] * (value.ndim - 1)) for name, value in conditions.items()}


@contextmanager
def memory_advice(what: str) -> Iterator[None]:
    """Turn "out of memory" into an error that says what lowers the need.

    Raises:
        OutOfMemory: the block ran out of memory.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises the plain kind
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        advice = "fewer images or samples at once, a smaller image_size, dtype='bfloat16', prior.pipeline.enable_attention_slicing(), "
        advice += "prior.pipeline.vae.enable_tiling() or prior.pipeline.enable_model_cpu_offload()"
        raise OutOfMemory(f"{what} did not fit into memory; what lowers the need: {advice}") from error
