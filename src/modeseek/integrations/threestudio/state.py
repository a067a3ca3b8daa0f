"""State of a guidance in checkpoints and over processes, and whether a camera stayed where it was."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

MOVED = 1e-3  # by which a camera's numbers may differ, relative and absolute, and be the same camera


class Kept(nn.Module):
    """State of parts that are no modules, as one entry of a state_dict. A checkpoint without it is loaded with a warning."""

    def __init__(self, parts: dict[str, Any]) -> None:
        super().__init__()
        self._parts = parts

    def get_extra_state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._parts.items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name, part in self._parts.items():
            part.load_state_dict(state[name])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        if f"{prefix}_extra_state" in state_dict:
            super()._load_from_state_dict(state_dict, prefix, *arguments)
        else:
            text = "the checkpoint has no state of the guidance, so its network, chain and targets start anew"
            warnings.warn(text, stacklevel=2)


def same_view(before: Tensor, now: Tensor) -> bool:
    """Whether two numbers of a camera are equal up to rounding."""
    return before.shape == now.shape and torch.allclose(before, now.to(before), rtol=MOVED, atol=MOVED)


def average_over_processes(gradients: Sequence[Tensor]) -> None:
    """Average gradients over the processes of `torch.distributed`, in place; nothing where there is one."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        for gradient in gradients:
            dist.all_reduce(gradient)
            gradient /= dist.get_world_size()
