"""The optimiser of a run, which follows the parameters of a representation when they are replaced.

Densification assigns new parameters to a module in the middle of a run. A PyTorch optimiser keeps optimising the old ones and
silently ignores the new ones. `FollowingOptimiser` compares the module's parameters with those it optimises; if they differ, it creates
a new optimiser with the factory and copies the state of all parameters that were kept. Rows of a parameter replaced by
`modeseek.representations.replace_parameter` keep their state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput
from modeseek.representations.replacement import Origin, continued, reshape_entry

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}


class FollowingOptimiser:
    """An optimiser of a module's parameters that is recreated when they are replaced.

    Args:
        representation: the module.
        factory: "adam", "adamw", "sgd", or `(parameters, lr) -> Optimizer`. It is called again after a replacement, so groups of its own
            must be read from the module inside it.
        lr: learning rate.
        prepare: called with every optimiser that is made.

    Raises:
        InvalidInput: an unknown name, or a module without parameters.
    """

    def __init__(
        self,
        representation: nn.Module,
        factory: str | Callable[..., torch.optim.Optimizer],
        lr: float,
        *,
        prepare: Callable[[torch.optim.Optimizer], None] = lambda optimiser: None,
    ) -> None:
        if isinstance(factory, str) and factory not in OPTIMISERS:
            raise InvalidInput(f"optimiser {factory!r} is unknown: choose {', '.join(OPTIMISERS)}, or give a factory")
        self.representation, self.lr, self.prepare = representation, lr, prepare
        self.factory = OPTIMISERS[factory] if isinstance(factory, str) else factory
        self.shapes = shapes_of(representation)
        self.names = {name for name, _ in representation.named_parameters()}
        self._make()

    def follow(self) -> bool:
        """Recreate the optimiser if parameters were replaced, reshaped, added or removed; return whether they were.

        Raises:
            InvalidInput: the factory returned an optimiser of parameters that the module no longer has.
        """
        if len(now := self._trained()) == len(self._seen) and all(
            old is new and shape == new.shape for (old, shape), new in zip(self._seen, now, strict=True)
        ):
            return False
        before, shapes = self.optimiser.state, dict(self._seen)
        self._make()
        for parameter in (p for group in self.optimiser.param_groups for p in group["params"]):
            origin: Origin | None = getattr(parameter, "origin", None)
            if parameter in before and shapes.get(parameter) == parameter.shape:
                self.optimiser.state[parameter] = before[parameter]
            elif origin is not None and origin.parameter in before:
                old = origin.parameter
                self.optimiser.state[parameter] = {
                    name: continued(value, origin) if isinstance(value, Tensor) and value.shape == old.shape else value
                    for name, value in before[old].items()
                }
            if origin is not None:
                del parameter.origin  # type: ignore[attr-defined]  # the old parameter may be freed
        return True

    def anneal(self, factor: float) -> None:
        """Set every group's learning rate to its initial one times `factor`."""
        for group, initial in zip(self.optimiser.param_groups, self.initial_rates, strict=True):
            group["lr"] = initial * factor

    def state_dict(self) -> dict[str, Any]:
        """State of the optimiser, and the shapes of the module's entries that are no longer those it was made with.

        Raises:
            InvalidInput: parameters were added or removed by name, which a newly constructed module could not restore.
        """
        self.follow()
        changed_names = {name for name, _ in self.representation.named_parameters()} ^ self.names
        if changed_names:
            raise InvalidInput(
                f"a run with a checkpoint keeps the names of its parameters, and {', '.join(sorted(changed_names))} came or went: "
                "replace parameters under their names (modeseek.replace_parameter)"
            )
        changed = {name: list(shape) for name, shape in shapes_of(self.representation).items() if self.shapes.get(name) != shape}
        return {"state": self.optimiser.state_dict(), "reshaped": changed}

    def reshape(self, state: dict[str, Any]) -> None:
        """Give the module the shapes of a saved state, before its own state is loaded."""
        for name, shape in state["reshaped"].items():
            reshape_entry(self.representation, name, shape)
        self.follow()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the optimiser; `reshape` and the module's own state come first."""
        self.optimiser.load_state_dict(state["state"])

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.representation.parameters() if p.requires_grad]

    def _make(self) -> None:
        parameters = self._trained()
        if not parameters:
            raise InvalidInput(f"{type(self.representation).__name__} has no parameters to optimise")
        self._seen = [(p, p.shape) for p in parameters]
        self.optimiser = self.factory(parameters, lr=self.lr)
        known = {id(p) for p in self.representation.parameters()}
        stale = [p for group in self.optimiser.param_groups for p in group["params"] if id(p) not in known]
        if stale:
            raise InvalidInput(
                f"the optimiser holds {len(stale)} parameters that {type(self.representation).__name__} does not have, such as one of "
                f"shape {tuple(stale[0].shape)}: read parameters from the module inside the factory, which is called after each replacement"
            )
        self.initial_rates = [group["lr"] for group in self.optimiser.param_groups]
        self.prepare(self.optimiser)


def shapes_of(module: nn.Module) -> dict[str, torch.Size]:
    """Shapes of the tensors of a module's state, by name."""
    return {name: value.shape for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def cosine(progress: float) -> float:
    """Factor of a learning rate that falls along a cosine from 1 to 0.

    Example:
        >>> [round(cosine(p), 2) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.5, 0.0]
    """
    return 0.5 + 0.5 * math.cos(math.pi * progress)
