"""Replace a parameter during a run: densify, prune or resample what is optimised.

The loop (`modeseek.distillation.loop`) reads the parameters of its representation again at every step, so any assignment of a new
`nn.Parameter` is optimised from the next step on. Its optimiser state (the moments of Adam) then starts at zero. `replace_parameter` also
says which old row each new row continues, and the loop moves the state of those rows along.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modeseek.core.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a parameter comes from: the parameter it replaced, and for each of its rows the old row or -1."""

    parameter: nn.Parameter
    rows: Tensor


def replace_parameter(module: nn.Module, name: str, values: Tensor, *, rows: Tensor | None = None) -> nn.Parameter:
    """Put a new parameter in the place of an old one, with another number of rows.

    Args:
        module: module that holds the parameter.
        name: of the parameter, such as "means" or "splats.means".
        values: (new rows, ...) of the new parameter; copied.
        rows: (new rows,) of int: the old row whose optimiser state a new row continues, -1 for a row that starts afresh. A row may be
            continued several times (a clone) or not at all (pruned). None: all rows start afresh.

    Returns:
        The new parameter; `requires_grad`, device and dtype are those of the old one.

    Raises:
        InvalidInput: no parameter of that name, values of another shape beyond the rows or with NaN, or rows that do not fit.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> kept = torch.tensor([0, 2, 2])  # drop row 1, clone row 2
        >>> replace_parameter(layer, "weight", layer.weight[kept], rows=kept).shape
        torch.Size([3, 2])
    """
    *path, last = name.split(".")
    try:
        owner = module.get_submodule(".".join(path))
    except AttributeError as error:
        raise InvalidInput(f"{type(module).__name__} has no parameter {name!r}") from error
    old = owner._parameters.get(last)
    if old is None:
        raise InvalidInput(f"{type(module).__name__} has no parameter {name!r}")
    if not bool(values.isfinite().all()):
        raise InvalidInput(f"the new values of {name!r} have NaN or infinite entries")
    if old.ndim != values.ndim or old.ndim == 0 or values.shape[1:] != old.shape[1:]:
        raise InvalidInput(
            f"{name!r} has the shape {tuple(old.shape)}: new values differ in the number of rows only, got {tuple(values.shape)}"
        )
    new = nn.Parameter(values.detach().to(old).clone(), requires_grad=old.requires_grad)
    if rows is not None:
        rows = torch.as_tensor(rows, dtype=torch.long, device=old.device)
        if rows.shape != new.shape[:1] or bool(((rows < -1) | (rows >= len(old))).any()):
            raise InvalidInput(f"rows must be ({len(new)},) with values from -1 to {len(old) - 1} of {name!r}, got {tuple(rows.shape)}")
        earlier: Origin | None = getattr(old, "origin", None)
        if earlier is not None:  # replaced twice since the optimiser was read
            rows, old = torch.where(rows < 0, -1, earlier.rows[rows.clamp_min(0)]), earlier.parameter
        new.origin = Origin(old, rows)  # type: ignore[attr-defined]
    setattr(owner, last, new)
    return new


def continued(state: Tensor, origin: Origin) -> Tensor:
    """Optimiser state of a replaced parameter for its successor: rows moved along, 0 for new rows.

    Example:
        >>> old = nn.Parameter(torch.zeros(2))
        >>> continued(torch.tensor([1.0, 2.0]), Origin(old, torch.tensor([1, -1, 1])))
        tensor([2., 0., 2.])
    """
    rows = origin.rows.to(state.device)
    kept = (rows >= 0).reshape(-1, *[1] * (state.ndim - 1))
    return torch.where(kept, state[rows.clamp_min(0)], torch.zeros((), dtype=state.dtype, device=state.device))


def reshape_entry(module: nn.Module, name: str, shape: list[int]) -> None:
    """Give a parameter or buffer another shape, to load a state that was saved after a replacement; its values are undefined."""
    *path, last = name.split(".")
    owner = module.get_submodule(".".join(path))
    if last in owner._parameters and owner._parameters[last] is not None:
        old = owner._parameters[last]
        setattr(owner, last, nn.Parameter(old.detach().new_zeros(shape), requires_grad=old.requires_grad))  # type: ignore[union-attr]
    elif last in owner._buffers and owner._buffers[last] is not None:
        owner._buffers[last] = owner._buffers[last].new_zeros(shape)  # type: ignore[union-attr]
