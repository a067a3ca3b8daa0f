r"""The interface of every gradient: the result it returns, its noise policy, and the averaging of Monte-Carlo samples.

A gradient is called as `gradient(x, progress=..., rng=...) -> Estimate` with x (batch, *event) and progress in [0, 1]. Randomness
comes from `rng`, or from the gradient's `seed` where noise is "fixed" or "shared": the same state and seed give the same estimate.
The estimate is weight * (x - target), the gradient of a loss, so
optimisers descend it and `x.backward(estimate.gradient)` computes the full vector-Jacobian product. Nothing is divided by the batch size or
by the number of coordinates. Estimators evaluate their denoisers under `torch.no_grad()`, so a network with trainable parameters keeps
no graph; a denoiser that differentiates inside (an energy network) enables gradients itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput

NoisePolicy = Literal["fresh", "fixed", "shared"]
_ITEMS_AT_ONCE = 1 << 14  # samples x batch evaluated together


@dataclass(frozen=True)
class Estimate:
    """A gradient estimate.

    Attributes:
        gradient: (batch, *event), the gradient of a loss with respect to x.
        target: (batch, *event), the point that a descent step approaches: gradient = weight * (x - target) with weight > 0 per item.
        info: diagnostics, each (batch,) or a number: always `calls` (denoiser calls per object of this estimate), and where they exist
            `bandwidth` (per coordinate), `residual` (|x - target|, norm over all coordinates) and `sigma` (per coordinate).
    """

    gradient: Tensor
    target: Tensor
    info: dict[str, Tensor | float] = field(default_factory=dict)


class Gradient(Protocol):
    """The interface of every gradient. Calling it has no side effects; training happens in `adapt`, where a gradient has one."""

    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate: ...


def in_full_precision(estimate: Callable[..., Estimate]) -> Callable[..., Estimate]:
    """Run an estimator's `__call__` in float32 where x is bfloat16 or float16; the estimate comes back in x's dtype.

    Noise levels, noisy states and differences have more digits than a half-precision x holds: with levels rounded to bfloat16 the
    error of SDI's gradient was one third.
    """

    @wraps(estimate)
    def called(self: Any, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        if x.dtype not in (torch.bfloat16, torch.float16):
            return estimate(self, x, progress=progress, rng=rng)
        found = estimate(self, x.float(), progress=progress, rng=rng)
        return Estimate(found.gradient.to(x.dtype), found.target.to(x.dtype), found.info)

    return called


def check_point(x: Tensor, progress: float) -> None:
    """Raise `InvalidInput` unless x is a batch of finite floats and progress lies in [0, 1]."""
    if x.ndim < 2 or not x.is_floating_point():
        raise InvalidInput(f"x must be a float batch (batch, *event), got {x.dtype} of shape {tuple(x.shape)}")
    if not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        raise InvalidInput(f"x has NaN or infinite entries in {bad} of {len(x)} items; check the renderer or lower the learning rate")
    if not 0 <= progress <= 1:
        raise InvalidInput(f"progress must lie in [0, 1], got {progress}")


def generator_for(policy: NoisePolicy, seed: int, rng: torch.Generator) -> torch.Generator:
    """The generator of the noise: `rng` itself ("fresh"), or a new generator of `seed` ("fixed" and "shared").

    "fixed" is common random numbers: object i of a batch gets the same noise at every step. That lowers the variance along the
    path, keeps seeds distinct, and biases the end point. "shared" gives that one noise to all objects of the batch, which in
    3-D means to all views (Consistent3D).

    Raises:
        InvalidInput: unknown policy.
    """
    if policy not in ("fresh", "fixed", "shared"):
        raise InvalidInput(f"noise policy {policy!r} is unknown: choose fresh, fixed or shared")
    return rng if policy == "fresh" else torch.Generator().manual_seed(seed)


def noise_like(x: Tensor, copies: int, policy: NoisePolicy, rng: torch.Generator) -> Tensor:
    """N(0, I) for `copies` copies of the batch: (copies * batch, *event); equal for all items of a copy where it is "shared"."""
    items = 1 if policy == "shared" else len(x)
    noise = torch.randn(copies, items, *x.shape[1:], dtype=x.dtype, generator=rng)
    return noise.expand(copies, *x.shape).reshape(-1, *x.shape[1:]).to(x.device)


def normal_like(x: Tensor, rng: torch.Generator) -> Tensor:
    """N(0, I) shaped like x, sampled on the CPU so that every device gets the same numbers."""
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
