r"""The loop: parameters theta -> x = g(theta) -> gradient -> x.backward(gradient) -> optimiser, yielded step by step.

The caller decides what to log, draw or stop; the loop owns the optimiser, the random state and the checkpoint. A run killed and
started again with the same checkpoint ends at the same parameters as one never interrupted: parameters, optimiser, random state,
VSD's network and the step are all in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from modeseek.errors import InvalidInput, NonFiniteError, OutputError
from modeseek.files import read_state, write_state
from modeseek.gradients import Estimate, Gradient

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
CHECKPOINT_KIND = "distillation"


@dataclass(frozen=True, kw_only=True)
class Stop:
    """When an object counts as converged: its bandwidth or its residual |m| is at or below the threshold.

    The paper terminates when the bandwidth falls below a threshold; |m| is 0 at a mode. The loop ends once every object has
    converged. The defaults never stop early.
    """

    bandwidth: float = 0.0
    residual: float = 0.0

    def reached(self, estimate: Estimate) -> Tensor:
        """(batch,) of bool."""
        done = torch.zeros(len(estimate.gradient), dtype=torch.bool)
        for name, threshold in (("bandwidth", self.bandwidth), ("residual", self.residual)):
            value = estimate.info.get(name)
            if threshold > 0 and isinstance(value, Tensor):
                done |= (value <= threshold).cpu()
        return done


@dataclass(frozen=True)
class Step:
    """One step of a distillation.

    Attributes:
        index: from 0.
        progress: index / (steps - 1), in [0, 1].
        x: (batch, *event) at which the gradient was taken, before the update.
        estimate: the gradient and its `info`.
        converged: (batch,) of bool, by the `Stop` rule.
        calls: denoiser calls an object, over all steps so far.
    """

    index: int
    progress: float
    x: Tensor
    estimate: Estimate
    converged: Tensor
    calls: float


class Learns(Protocol):
    """A gradient with a state of its own (VSD)."""

    def adapt(self, x: Tensor, rng: torch.Generator) -> float: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def distill(
    representation: nn.Module,
    gradient: Gradient,
    *,
    steps: int,
    optimiser: str | Callable[..., torch.optim.Optimizer] = "adam",
    rate: float = 0.08,
    encode: Callable[[Tensor], Tensor] | None = None,
    stop: Stop | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    every: int = 25,
) -> Iterator[Step]:
    """Optimise a representation along a gradient; yields each step.

    Args:
        representation: module whose forward gives (batch, *image).
        gradient: any of `modeseek.gradients`.
        steps: optimiser steps; schedules run over them.
        optimiser: "adam", "adamw", "sgd", or a factory `(parameters, lr) -> Optimizer`.
        rate: its learning rate. With "sgd", rate 1 and MSD a step is the mean-shift iteration x <- mean of y.
        encode: differentiable map from the rendered batch to x; None: x is the batch.
        stop: convergence rule; None: run all steps.
        seed: of all randomness.
        checkpoint: file to save to every `every` steps and at the end, and to resume from.

    Raises:
        InvalidInput: unknown optimiser, no steps, no parameters.
        NonFiniteError: x or its gradient became NaN or infinite; the state before that step is in the checkpoint.
        OutputError: the checkpoint belongs to another run.

    Example:
        >>> from modeseek import MSD, Points, LinearBandwidth, fractal
        >>> from modeseek.drawing import ExactDraw
        >>> points = Points(torch.tensor([[0.5, 0.5]]))
        >>> for step in distill(points, MSD(denoiser=fractal("A"), draw=ExactDraw(steps=5)), steps=3):
        ...     pass
        >>> step.index, step.calls
        (2, 24.0)
    """
    if steps < 1:
        raise InvalidInput(f"a distillation needs at least 1 step, got {steps}")
    if isinstance(optimiser, str) and optimiser not in OPTIMISERS:
        raise InvalidInput(f"optimiser {optimiser!r} is unknown: choose {', '.join(OPTIMISERS)}, or give a factory")
    parameters = [p for p in representation.parameters() if p.requires_grad]
    if not parameters:
        raise InvalidInput(f"{type(representation).__name__} has no parameters to optimise")
    factory = OPTIMISERS[optimiser] if isinstance(optimiser, str) else optimiser
    updates = factory(parameters, lr=rate)
    rng = torch.Generator().manual_seed(seed)
    learner: Learns | None = gradient if hasattr(gradient, "adapt") else None  # type: ignore[assignment]
    identity = f"{type(gradient).__name__} steps={steps} seed={seed} rate={rate}"
    start, calls = 0, 0.0
    if checkpoint is not None and checkpoint.exists():
        state = read_state(checkpoint, kind=CHECKPOINT_KIND)
        if state["identity"] != identity:
            raise OutputError(f"{checkpoint} belongs to another run ({state['identity']}); choose another file")
        start, calls = state["done"], state["calls"]
        representation.load_state_dict(state["representation"])
        updates.load_state_dict(state["optimiser"])
        rng.set_state(state["rng"])
        if learner is not None:
            learner.load_state_dict(state["gradient"])

    def save(done: int, rng_state: Tensor) -> None:
        if checkpoint is None:
            return
        state = {"identity": identity, "done": done, "calls": calls, "rng": rng_state}
        state |= {"representation": representation.state_dict(), "optimiser": updates.state_dict()}
        state["gradient"] = learner.state_dict() if learner is not None else {}
        write_state(checkpoint, state, kind=CHECKPOINT_KIND)

    for index in range(start, steps):
        progress = index / max(steps - 1, 1)
        before = rng.get_state()
        image = representation()
        x = image if encode is None else encode(image)
        place = x.detach().clone()  # x may be the parameters themselves, which the update moves
        estimate = gradient(place, progress=progress, rng=rng)
        if not bool(estimate.gradient.isfinite().all()):
            save(index, before)
            bad = int((~estimate.gradient.isfinite()).flatten(1).any(1).sum())
            kept = f"; the state before it is in {checkpoint}" if checkpoint is not None else ""
            raise NonFiniteError(f"step {index}: the gradient of {bad} of {len(x)} objects is not finite{kept}")
        updates.zero_grad()
        x.backward(estimate.gradient.to(x))
        updates.step()
        if learner is not None:
            learner.adapt((representation() if encode is None else encode(representation())).detach(), rng)
        calls += float(estimate.info["calls"])
        converged = stop.reached(estimate) if stop is not None else torch.zeros(len(x), dtype=torch.bool)
        finished = index + 1 == steps or bool(converged.all())
        if finished or (index + 1) % every == 0:
            save(steps if finished else index + 1, rng.get_state())
        yield Step(index, progress, place, estimate, converged, calls)
        if finished:
            return
