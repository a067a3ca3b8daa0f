r"""What every gradient shares: the result it returns, its noise policy, and the averaging of Monte-Carlo samples.

A gradient is called `gradient(x, progress=..., rng=...) -> Estimate` with x (batch, *event), progress in [0, 1] and all randomness
from `rng`: same rng, same answer. The estimate is weight * (x - target), the gradient of a loss, so optimisers descend it and
`x.backward(estimate.gradient)` is the whole vector-Jacobian product. Nothing is divided by the batch or the event's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput

NoisePolicy = Literal["fresh", "fixed"]
_ITEMS_AT_ONCE = 1 << 14  # samples x batch evaluated together


@dataclass(frozen=True)
class Estimate:
    """A gradient estimate.

    Attributes:
        gradient: (batch, *event), the gradient of a loss with respect to x.
        target: (batch, *event), where the gradient points: gradient = weight * (x - target).
        info: what a scientist wants to see, each (batch,) or a number: always `calls` (denoiser calls of this estimate), and where they
            exist `bandwidth`, `residual` (|x - target|) and `sigma`.
    """

    gradient: Tensor
    target: Tensor
    info: dict[str, Tensor | float] = field(default_factory=dict)


class Gradient(Protocol):
    """The interface of every gradient; estimating never learns."""

    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate: ...


def check_point(x: Tensor, progress: float) -> None:
    """Raise `InvalidInput` unless x is a batch of finite floats and progress lies in [0, 1]."""
    if x.ndim < 2 or not x.is_floating_point():
        raise InvalidInput(f"x must be a float batch (batch, *event), got {x.dtype} of shape {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        raise InvalidInput(f"x has NaN or infinite entries in {bad} of {len(x)} items; check the renderer or lower the rate")
    if not 0 <= progress <= 1:
        raise InvalidInput(f"progress must lie in [0, 1], got {progress}")


def generator_for(policy: NoisePolicy, seed: int, rng: torch.Generator) -> torch.Generator:
    """Where noise comes from: `rng` itself ("fresh" each call), or a new generator of `seed` ("fixed" per object).

    Fixed noise is common random numbers: object i of a batch meets the same noise in every step, which lowers the variance
    along the path and keeps seeds apart, and biases the point where the path ends.
    """
    if policy not in ("fresh", "fixed"):
        raise InvalidInput(f"noise policy {policy!r} is unknown: choose fresh or fixed")
    return rng if policy == "fresh" else torch.Generator().manual_seed(seed)


def normal_like(x: Tensor, rng: torch.Generator) -> Tensor:
    """N(0, I) shaped like x, drawn on the CPU so that every device sees the same numbers."""
    return torch.randn(x.shape, dtype=x.dtype, generator=rng).to(x.device)


def repeated(x: Tensor, samples: int) -> Iterator[tuple[Tensor, int]]:
    """x repeated `samples` times in groups of bounded size: yields (copies * batch, *event) and copies."""
    if samples < 1:
        raise InvalidInput(f"a gradient needs at least 1 sample, got {samples}")
    group = max(1, _ITEMS_AT_ONCE // len(x))
    for start in range(0, samples, group):
        copies = min(group, samples - start)
        yield x.repeat(copies, *[1] * (x.ndim - 1)), copies


def mean_over_samples(x: Tensor, samples: int, evaluate: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Mean of `evaluate(copies of x, number of copies)` over all samples: (batch, *event)."""
    total = torch.zeros_like(x)
    for copies_of_x, copies in repeated(x, samples):
        total += evaluate(copies_of_x, copies).reshape(copies, *x.shape).sum(0)
    return total / samples


def residual(x: Tensor, target: Tensor) -> Tensor:
    """|x - target| of each item: (batch,)."""
    return (x - target).flatten(1).norm(dim=1)
