r"""Estimate the cost of a run (denoiser calls, time and memory) from a few of its steps and from writing its results once.

A step costs a fixed part (rendering, codec, update) and a part for each denoiser call:

    seconds of the run = load + early * a + (steps - early) * b + calls * c + results

All are measured: a, b and c from steps with and without an estimate where targets are cached, and from a bare denoiser call elsewhere, each
without its first step (allocation, warm-up). Rendering a volume costs more once its density has spread over more of the box. The plan of an
object therefore measures twice: at the start (a), and (b) after steps with small renders, with the shading, regularisers and grid levels of
three quarters of the run. Results (frames, previews, turntable, mesh, page) are written once, into a temporary folder that is removed.
Memory is the peak of this process, which has loaded the prior, run those steps and written those results.
"""

from __future__ import annotations

import gc
import re
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modeseek.distillation.literature import calls_of_negative
from modeseek.distillation.loop import Step
from modeseek.distillation.recipes import scale_of
from modeseek.priors.base import ImagePrior
from modeseek.priors.pipelines.loading import has_bfloat16
from modeseek.representations.nerf import NeRF
from modeseek.sweeps.trial import Clock, image_results, object_results
from modeseek.tasks.text_to_3d import ObjectRun, steps_of, untrained_nerf, volume_of
from modeseek.tasks.text_to_image import ImageRun, distilled

MEASURED = 3
SETTLED = 40  # steps with small renders, or a third of the run,
SETTLING = 20.0  # but no more seconds than this


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cost of a run.

    Attributes:
        steps: optimiser steps.
        calls: denoiser calls per object.
        batch: objects or views evaluated side by side.
        step_seconds: mean seconds per step over the run.
        call_seconds: seconds of one denoiser call on the batch.
        load_seconds: to load the prior.
        result_seconds: to write frames or previews, and the results.
        memory: peak bytes: of the process on a CPU, allocated on the device elsewhere.
        weights: bytes of the prior's networks, included in `memory`.
        advice: options that reduce time or memory.
        notes: what the figures depend on.
    """

    steps: int
    calls: float
    batch: int
    step_seconds: float
    call_seconds: float
    load_seconds: float
    result_seconds: float
    memory: int
    weights: int
    advice: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Seconds of the run."""
        return self.load_seconds + self.steps * self.step_seconds + self.result_seconds

    def __str__(self) -> str:
        lines = [
            f"denoiser calls    {self.calls:g} per {'object' if self.batch == 1 else f'object, {self.batch} side by side'}",
            f"steps             {self.steps} of {self.step_seconds:.3g} s; one denoiser call takes {self.call_seconds:.3g} s",
            f"time              {duration(self.seconds)}; loading takes {self.load_seconds:.0f} s, results {self.result_seconds:.0f} s",
            f"memory            {size_of(self.memory)}, {size_of(self.weights)} of it weights",
        ]
        return "\n".join([*lines, *self.notes, "what would lower it:", *(f"  {line}" for line in self.advice)])


def plan(
    run: ImageRun | ObjectRun,
    *,
    prior: ImagePrior | None = None,
    load_seconds: float = 0.0,
    results: bool = True,
    clock: Clock = time.perf_counter,
) -> Plan:
    """Measure a few steps of a run, and its results.

    Args:
        run: the run.
        prior: used instead of loading the run's, which took `load_seconds`.
        load_seconds: to load `prior`.
        results: whether an image run writes frames and a page; a cell of a sweep writes its image alone.
        clock: seconds; `time.process_time` where other processes use the machine.

    Raises:
        InvalidInput, WeightsError: as the run itself.
        OutOfMemory: one step does not fit into memory; the message names options that reduce memory use.
    """
    if prior is None:
        begun = clock()
        prior = run.prior.open()
        load_seconds = clock() - begun
    _reset_peak(prior.device)
    recipe, trial = run.recipe, _Trial(run, prior, clock)
    cost = trial.object() if isinstance(run, ObjectRun) else trial.image(results=results)
    weights = sum(p.numel() * p.element_size() for network in networks_of(prior) for p in network.parameters())
    calls = recipe.calls + (calls_of_negative(recipe) if run.negative else 0)
    optimised = cost.early * cost.first + (recipe.steps - cost.early) * cost.later
    return Plan(
        steps=recipe.steps,
        calls=calls,
        batch=trial.batch,
        step_seconds=(optimised + calls * cost.each) / recipe.steps,
        call_seconds=cost.each,
        load_seconds=load_seconds,
        result_seconds=cost.results,
        memory=peak_memory(prior.device),
        weights=weights,
        advice=tuple(_advice(run, prior, trial.batch, optimised / recipe.steps, cost.each, calls, weights)),
        notes=cost.notes,
    )


@dataclass(frozen=True, kw_only=True)
class _Cost:
    """Seconds: of a step without denoiser calls in the first `early` steps and `later`, of a call, and of all files."""

    early: int
    first: float
    later: float
    each: float
    results: float
    notes: tuple[str, ...] = ()


class _Trial:
    """The short run that a plan measures, with targets that serve at most two steps."""

    def __init__(self, run: ImageRun | ObjectRun, prior: ImagePrior, clock: Clock) -> None:
        self.run: Any = run
        self.prior, self.clock = prior, clock
        self.refresh = min(run.recipe.refresh, 2)
        steps = max(run.recipe.steps, 2 * (1 + MEASURED) + 1)  # of a shorter run too
        self.short: Any = replace(run, recipe=replace(run.recipe, refresh=self.refresh, steps=steps))
        self.batch = len(run.seeds) if isinstance(run, ImageRun) else untrained_nerf(run, prior.image_size).settings.views.count
        self.before = 0.0

    def image(self, *, results: bool) -> _Cost:
        run, prompts = self.short, [self.short.prompt] * self.batch
        chosen: dict[str, Any] = {"seeds": run.seeds, "representation": run.representation, "negative": run.negative, "seed": run.seed}
        made, steps = distilled(self.prior, prompts, run.recipe, **chosen)
        fixed, each = self.measured(steps)
        written = image_results(self.run, made, self.prior, self.clock) if results else 0.0
        return _Cost(early=0, first=fixed, later=fixed, each=each, results=written)

    def object(self) -> _Cost:
        """Measure at the start and, after steps with small renders, in the state of three quarters of the run."""
        nerf = volume_of(self.short, self.prior)
        settings, total = nerf.settings, self.short.recipe.steps
        nerf.settings = replace(settings, background_first=0)  # whose steps render no gradient
        steps = steps_of(self.short, self.prior, nerf)
        first, each = self.measured(steps)
        small = (max(8, settings.views.size[0] // 2), max(8, settings.views.size[1] // 2))
        nerf.settings = replace(settings, views=replace(settings.views, size=small, low=None))
        occupied, deadline = [_occupied(nerf)], self.clock() + SETTLING
        while nerf.step + MEASURED + self.refresh < total and nerf.step < max(total // 3, SETTLED) and self.clock() < deadline:
            for _ in range(self.refresh):
                self.before = next(steps).calls
                occupied.append(_occupied(nerf))
        half = (occupied[0] + occupied[-1]) / 2
        spread = next(index for index, fraction in enumerate(occupied) if fraction >= half) if occupied[-1] > 1.2 * occupied[0] else 0
        late = 3 * total // 4 // self.refresh * self.refresh
        nerf.calls = max(nerf.calls, late)
        nerf.settings = replace(settings, background_first=0)
        later, each_later = self.measured(steps)
        steps.close()  # type: ignore[attr-defined]
        share = f"{_occupied(nerf):.0%} of the box is occupied after {len(occupied) + MEASURED} steps; time and memory grow with that part"
        return _Cost(
            early=min(self.run.recipe.steps, max(spread + MEASURED if spread else 0, settings.views.low[2] if settings.views.low else 0)),
            first=first,
            later=later,
            each=(each + each_later) / 2,
            results=object_results(self.run, nerf, self.prior, self.clock),
            notes=(share,) if nerf.occupancy is not None else (),
        )

    def measured(self, steps: Iterator[Step]) -> tuple[float, float]:
        """Seconds of a step without its denoiser calls, and of one call, over 1 + `MEASURED` steps, of which the first does not count."""
        times, calls = [], []
        for _ in range(1 + MEASURED):
            _wait(self.prior.device)
            start = self.clock()
            step = next(steps)
            _wait(self.prior.device)
            times.append(self.clock() - start)
            calls.append(step.calls - self.before)
            self.before = step.calls
        times, calls = times[1:], calls[1:]
        if self.refresh == 1:
            each = _bare_call(self.run, self.prior, self.batch, self.clock)
            return max(0.0, statistics.mean(times) - each * statistics.mean(calls)), each
        kept = statistics.mean(t for t, n in zip(times, calls, strict=True) if n == 0)
        return kept, max(0.0, statistics.mean((t - kept) / n for t, n in zip(times, calls, strict=True) if n))


def _occupied(nerf: NeRF) -> float:
    """Fraction of the box whose samples are evaluated."""
    return float(nerf.occupancy.fraction()) if nerf.occupancy is not None else 1.0


@torch.no_grad()
def _bare_call(run: ImageRun | ObjectRun, prior: ImagePrior, batch: int, clock: Clock) -> float:
    """Seconds of one denoiser call on the batch."""
    denoiser = prior.denoiser([run.prompt] * batch, guidance=scale_of(run.recipe, prior), negative=run.negative or None)
    x = torch.randn(batch, *prior.event, device=prior.device)
    sigma = torch.tensor(min(1.0, prior.sigmas[1]), device=prior.device)
    found = []
    for _ in range(1 + MEASURED):
        _wait(prior.device)
        start = clock()
        denoiser(x, sigma)
        _wait(prior.device)
        found.append(clock() - start)
    return statistics.median(found[1:])


def networks_of(prior: Any) -> list[nn.Module]:
    """The networks of a pipeline prior; none of a prior of another kind."""
    parts = getattr(getattr(prior, "pipeline", None), "components", {})
    return [part for part in parts.values() if isinstance(part, nn.Module)]


def _advice(run: Any, prior: ImagePrior, batch: int, fixed: float, each: float, calls: float, weights: int) -> Iterator[str]:
    recipe = run.recipe
    share = calls * each / max(calls * each + recipe.steps * fixed, 1e-9)
    if share > 0.3:
        if recipe.refresh == 1 and recipe.method != "msd-persistent":
            yield f"--refresh 5: {calls / 5:g} instead of {calls:g} denoiser calls, which take {share:.0%} of the time"
        if recipe.method in ("msd-proximal", "msd-reverse", "msd-split"):
            yield f"--sampler-steps {max(2, recipe.sampler_steps // 2)}: about half the denoiser calls"
        if recipe.samples > 1:
            yield f"--samples 1: a {recipe.samples}th of the denoiser calls"
    if recipe.steps > 100:
        yield f"--steps {recipe.steps // 2}: half the time"
    if run.prior.dtype == "float32" and has_bfloat16(prior.device):
        yield f"--dtype bfloat16: {size_of(weights // 2)} less for weights, and faster where the device multiplies in bfloat16"
    if isinstance(run, ObjectRun) and batch > 1:
        yield f"--views {batch // 2}: about half the time and the activations, with noisier steps"
    elif batch > 1:
        yield f"--seeds {batch // 2}: about half the time and the activations"
    if not isinstance(run, ObjectRun) and run.prior.image_size is None and prior.image_size[0] > 256:
        yield f"--image-size {prior.image_size[0] // 2}: about a quarter of the activations and the time, where the model allows it"
    if weights > 1 << 30:
        yield "in Python: prior.pipeline.enable_attention_slicing(), .vae.enable_tiling(), .enable_model_cpu_offload(); torch.compile(unet)"


# ---------------------------------------------------------------- clocks and memory
def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Peak bytes: allocated on the device since the reset, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")  # on Linux `getrusage` starts with the peak of the process that called exec
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def size_of(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Seconds in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
