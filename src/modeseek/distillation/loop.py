r"""The loop: parameters theta -> image -> x -> gradient -> backward -> optimiser, yielded step by step.

The caller decides what to log or plot and when to stop; the loop manages the optimiser, the random state and the checkpoint. A run that is
killed and restarted with the same checkpoint ends with the same parameters as an uninterrupted one: the checkpoint holds parameters,
optimiser, random state, cached targets, the gradient's state (VSD's network, a chain) and the step. `modeseek.gradients.cached` defines
residuals in image space and cached targets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from modeseek.core.checks import check_integer, check_number, check_seed
from modeseek.core.errors import InvalidInput, NonFiniteError, OutputError, WeightsError
from modeseek.core.files import read_state, write_state
from modeseek.core.identity import described, digest
from modeseek.core.interrupts import deferred, leave_if_requested, requested
from modeseek.distillation.parameters import FollowingOptimiser, cosine
from modeseek.gradients import Estimate, Gradient
from modeseek.gradients.cached import CachedTarget, Map, Space
from modeseek.scaling.ranks import ALONE, Ranks

CHECKPOINT_KIND = "distillation"


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A convergence criterion: the bandwidth or the residual |m| of an object is at or below a threshold.

    The paper stops when the bandwidth falls below a threshold; |m| is 0 at a mode. The loop ends when every object has converged. The
    defaults never stop early. `residual` is the norm over all coordinates of an object, which grows with the square root of its dimension.
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
        x: (batch, *event) at which the gradient was taken, before the update; the images in image space. Of the last pass.
        estimate: the gradient there and its `info`; `calls` is 0 for a cached target. Of the last pass.
        converged: (batch,) of bool, by the `Stop` rule.
        calls: denoiser calls per object, over all steps so far.
    """

    index: int
    progress: float
    x: Tensor
    estimate: Estimate
    converged: Tensor
    calls: float

    def _repr_html_(self) -> str:
        """The step in a notebook: its numbers, and its images or points."""
        from modeseek.plots.display import step_html

        return step_html(self)

    def _repr_png_(self) -> bytes | None:
        """The images of x as PNG; None where x holds none."""
        from modeseek.plots.display import step_png

        return step_png(self.x)


class Trainable(Protocol):
    """A gradient with a state (VSD's network, a chain). The loop calls `adapt` after each estimate with the current renders: after the last
    pass of a step those of the updated parameters, which are rendered again unless `adapts_to_renders` is False."""

    def adapt(self, x: Tensor, rng: torch.Generator) -> float: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def optimise(
    representation: nn.Module,
    gradient: Gradient,
    *,
    steps: int,
    optimiser: str | Callable[..., torch.optim.Optimizer] = "adam",
    lr: float = 0.08,
    schedule: Literal["constant", "cosine"] = "constant",
    warmup: float = 0.0,
    encode: Map | None = None,
    decode: Map | None = None,
    space: Space = "latent",
    refresh: int = 1,
    accumulate: int = 1,
    stop: Stop | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    every: int = 25,
    identity: str | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Step]:
    """Optimise a representation along a gradient; yields each step.

    Args:
        representation: module whose forward gives (batch, *image).
        gradient: any of `modeseek.gradients`.
        steps: optimiser steps; schedules run over them.
        optimiser: "adam", "adamw", "sgd", or a factory `(parameters, lr) -> Optimizer`. It is called again when parameters of the
            representation were replaced (`modeseek.replace_parameter`), by the caller between two steps or by the representation itself.
        lr: learning rate. With "sgd", lr 1 and MSD each step is the mean-shift iteration x <- mean of y.
        schedule: of the learning rate: "constant", or "cosine", falling to 0 at the end.
        warmup: share of the steps over which the learning rate rises linearly to that schedule.
        encode: differentiable map from the rendered batch to x; None: x is the batch.
        decode: map from x to images, called once per estimate in image space, twice in the space "difference".
        space: of the residual: "latent", at x and back through `encode`; "image", at the images; "difference", at the images, by the change
            of the decoded images.
        refresh: number of steps that use the target of one estimate.
        accumulate: forward, estimate and backward passes averaged in one step.
        stop: convergence rule; None: run all steps.
        seed: of all randomness.
        checkpoint: file to save to every `every` steps and at the end, and to resume from. A step is saved when the caller
            requests the next one, so the caller's own files for that step are already on disk.
        identity: text that defines the run beyond these arguments; a checkpoint with another identity is refused. None: a description of
            the gradient (`modeseek.core.identity`).
        ranks: processes of the run, all of which run this loop. Gradients of the parameters are summed over them, so the representation and
            the maps must be differentiable through the local shard only (`modeseek.scaling.ranks`); the main rank saves.

    Raises:
        InvalidInput: an unknown name, a number below 1, no parameters, or image space without `decode`.
        NonFiniteError: x or its gradient became NaN or infinite. The last good state is in the checkpoint: the one before
            that step, or the last one saved, if x itself is not finite.
        OutputError: the checkpoint belongs to another run.
        WeightsError: the checkpoint is damaged, or holds NaN.
        Terminated: SIGTERM arrived where it is handled; the step was finished and saved.
        RankLost: another process died or froze.

    Example:
        >>> from modeseek import MSD, Points, LinearBandwidth, fractal
        >>> from modeseek.product.samplers import ExactSampler
        >>> points = Points(torch.tensor([[0.5, 0.5]]))
        >>> for step in optimise(points, MSD(denoiser=fractal("A"), sampler=ExactSampler(steps=5)), steps=3):
        ...     pass
        >>> step.index, step.calls
        (2, 24.0)
    """
    if min(steps, accumulate) < 1:
        raise InvalidInput(f"a distillation needs at least 1 step and 1 pass, got steps={steps} and accumulate={accumulate}")
    check_number("lr", lr, above=0)
    check_seed("seed", seed)
    check_integer("every", every)
    check_number("warmup", warmup, low=0, high=1)
    if schedule not in ("constant", "cosine"):
        raise InvalidInput(f"schedule {schedule!r} is unknown: choose constant or cosine")
    cached = CachedTarget(gradient, space=space, refresh=refresh, encode=encode, decode=decode)
    updates = FollowingOptimiser(representation, optimiser, lr, prepare=ranks.sum_gradients)
    rng = torch.Generator().manual_seed(seed)
    learner: Trainable | None = gradient if hasattr(gradient, "adapt") else None  # type: ignore[assignment]
    arguments = f"{type(gradient).__name__} {steps=} {seed=} {lr=} {schedule} {warmup=} {space} {refresh=} {accumulate=}"
    trained = f"{type(representation).__name__} {type(updates.optimiser).__name__}"
    identity = f"{arguments} {trained} {digest(described(gradient)) if identity is None else identity}"
    parts = {"representation": representation, "optimiser": updates, "cached": cached, "gradient": learner}
    run = _Run(identity, None if checkpoint is None else Path(checkpoint), parts, rng, saves=ranks.is_main)
    run.resume()
    ranks.check_equal(run.done, "the steps that the checkpoint has done")

    with deferred():
        for index in range(run.done, steps):
            progress = index / max(steps - 1, 1)
            updates.follow()
            rate = min(1.0, (index + 1) / max(1.0, warmup * steps)) * (cosine(index / steps) if schedule == "cosine" else 1.0)
            updates.anneal(rate)
            undo = run.snapshot(with_gradient=accumulate > 1)
            updates.optimiser.zero_grad()
            for slot in range(accumulate):
                try:
                    found = cached(representation(), slot=slot, progress=progress, rng=rng)
                except NonFiniteError as error:  # the parameters are not finite either: keep the last checkpoint
                    raise NonFiniteError(f"step {index}: {error}") from None
                gradient_here = found.estimate.gradient
                if not bool(gradient_here.isfinite().all()):
                    undo()
                    run.save()
                    bad = int((~gradient_here.isfinite()).flatten(1).any(1).sum())
                    kept = f"; the state before it is in {checkpoint}" if checkpoint is not None else ""
                    raise NonFiniteError(f"step {index}: the gradient of {bad} of {len(gradient_here)} objects is not finite{kept}")
                found.place.backward(gradient_here.to(found.place) / accumulate)
                run.calls += float(found.estimate.info["calls"])
                last = slot + 1 == accumulate
                if last:
                    if updates.follow():  # a representation may replace its parameters as it renders
                        updates.anneal(rate)
                    updates.optimiser.step()
                if learner is not None and found.evaluated_at is not None:
                    moved = last and getattr(learner, "adapts_to_renders", True)
                    learner.adapt(cached.x_of(representation) if moved else found.evaluated_at, rng)
            converged = stop.reached(found.estimate) if stop is not None else torch.zeros(len(found.value), dtype=torch.bool)
            finished = index + 1 == steps or bool(converged.all())
            run.done = steps if finished else index + 1
            try:
                yield Step(index, progress, found.value, found.estimate, converged, run.calls)
            finally:  # also where the caller leaves
                if finished or (index + 1) % every == 0 or requested():
                    run.save()
            leave_if_requested()
            if finished:
                return


@dataclass
class _Run:
    """The state of a run and its checkpoint file. `parts` without a state are None."""

    identity: str
    checkpoint: Path | None
    parts: dict[str, Any]
    rng: torch.Generator
    saves: bool
    done: int = 0
    calls: float = 0.0

    def save(self) -> None:
        if self.checkpoint is None or not self.saves:
            return
        state = {"identity": self.identity, "done": self.done, "calls": self.calls, "rng": self.rng.get_state()}
        state |= {name: part.state_dict() if part is not None else {} for name, part in self.parts.items()}
        write_state(self.checkpoint, state, kind=CHECKPOINT_KIND)

    def resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        state = read_state(self.checkpoint, kind=CHECKPOINT_KIND)
        if state.get("identity") != self.identity:
            raise OutputError(
                f"{self.checkpoint} belongs to another run, or to other settings ({state.get('identity')}); choose another file"
            )
        try:
            self.done, self.calls = state["done"], state["calls"]
            self.rng.set_state(state["rng"])
            self.parts["optimiser"].reshape(state["optimiser"])
            for name, part in self.parts.items():
                if part is not None:
                    part.load_state_dict(state[name])
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(f"{self.checkpoint} does not fit this run ({words}); remove it to start again") from error

    def snapshot(self, *, with_gradient: bool) -> Callable[[], None]:
        """Return a callback that restores the state before the step: RNG, call count, cached targets, what the representation keeps besides
        its parameters (the number of its renders), and on request the gradient's."""
        calls, rng, cached = self.calls, self.rng.get_state(), self.parts["cached"].state_dict()
        representation = self.parts["representation"]
        trained = {name for name, _ in representation.named_parameters(remove_duplicate=False)} if self.checkpoint is not None else set()
        own = {name: value for name, value in representation.state_dict().items() if name not in trained} if trained else {}
        own = copy.deepcopy(own)
        learner = self.parts["gradient"] if with_gradient else None
        learned = copy.deepcopy(learner.state_dict()) if learner is not None else {}

        def undo() -> None:
            self.calls = calls
            self.rng.set_state(rng)
            self.parts["cached"].load_state_dict(cached)
            representation.load_state_dict(own, strict=False)
            if learner is not None:
                learner.load_state_dict(learned)

        return undo
