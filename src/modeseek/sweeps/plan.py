r"""Estimate the cost of a run (denoiser calls, time and memory) from three of its steps.

A step costs a fixed part (rendering, codec, update) and a part for each denoiser call:

    seconds of the run = steps * a + calls * b

Both are measured: from steps with and without an estimate where targets are cached, and from a bare denoiser call elsewhere. The
first step is not counted (allocation, warm-up). Memory is the peak of this process, which has loaded the prior and run those steps.
No files are written.
"""

from __future__ import annotations

import gc
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from modeseek.distillation.loop import Step
from modeseek.distillation.recipes import scale_of
from modeseek.priors.base import ImagePrior
from modeseek.priors.pipelines.loading import has_bfloat16
from modeseek.tasks.text_to_3d import ObjectRun, steps_of, volume_of
from modeseek.tasks.text_to_image import ImageRun, distilled

MEASURED = 3


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
        memory: peak bytes: of the process on a CPU, allocated on the device elsewhere.
        weights: bytes of the prior's networks, included in `memory`.
        advice: options that reduce time or memory.
    """

    steps: int
    calls: float
    batch: int
    step_seconds: float
    call_seconds: float
    load_seconds: float
    memory: int
    weights: int
    advice: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Seconds of the run, without writing its results."""
        return self.load_seconds + self.steps * self.step_seconds

    def __str__(self) -> str:
        lines = [
            f"denoiser calls    {self.calls:g} per {'object' if self.batch == 1 else f'object, {self.batch} side by side'}",
            f"steps             {self.steps} of {self.step_seconds:.3g} s; one denoiser call takes {self.call_seconds:.3g} s",
            f"time              {_duration(self.seconds)}, {self.load_seconds:.0f} s of it to load the prior",
            f"memory            {_size(self.memory)}, {_size(self.weights)} of it weights",
        ]
        return "\n".join([*lines, "what would lower it:", *(f"  {line}" for line in self.advice)])


def plan(run: ImageRun | ObjectRun) -> Plan:
    """Measure three steps of a run.

    Raises:
        InvalidInput, WeightsError: as the run itself.
        OutOfMemory: one step does not fit into memory; the message names options that reduce memory use.
    """
    begun = time.perf_counter()
    prior = run.prior.open()
    loaded = time.perf_counter() - begun
    _reset_peak(prior.device)
    recipe = run.recipe
    short = replace(run, recipe=replace(recipe, refresh=min(recipe.refresh, 2)))
    steps, batch = _begin(short, prior)
    times, calls, before = [], [], 0.0
    for _ in range(1 + MEASURED):
        _wait(prior.device)
        start = time.perf_counter()
        step = next(steps)
        _wait(prior.device)
        times.append(time.perf_counter() - start)
        calls.append(step.calls - before)
        before = step.calls
    steps.close()  # type: ignore[attr-defined]
    times, calls = times[1:], calls[1:]
    if recipe.refresh > 1:
        kept = statistics.mean(t for t, n in zip(times, calls, strict=True) if n == 0)
        estimated = statistics.mean((t - kept) / n for t, n in zip(times, calls, strict=True) if n)
        fixed, each = kept, max(0.0, estimated)
    else:
        each = _bare_call(run, prior, batch)
        fixed = max(0.0, statistics.mean(times) - each * statistics.mean(calls))
    whole = recipe.steps * fixed + recipe.calls * each
    weights = sum(p.numel() * p.element_size() for network in networks_of(prior) for p in network.parameters())
    return Plan(
        steps=recipe.steps,
        calls=recipe.calls,
        batch=batch,
        step_seconds=whole / recipe.steps,
        call_seconds=each,
        load_seconds=loaded,
        memory=_peak(prior.device),
        weights=weights,
        advice=tuple(_advice(run, prior, batch, fixed, each, weights)),
    )


def _begin(run: ImageRun | ObjectRun, prior: ImagePrior) -> tuple[Iterator[Step], int]:
    """The run's loop, without a checkpoint, and how many objects or views it evaluates side by side."""
    if isinstance(run, ObjectRun):
        nerf = volume_of(run, prior)
        nerf.settings = replace(nerf.settings, background_first=0)  # whose steps render no gradient
        return steps_of(run, prior, nerf), nerf.settings.views.count
    prompts = [run.prompt] * len(run.seeds)
    chosen: dict[str, Any] = {"seeds": run.seeds, "representation": run.representation, "negative": run.negative, "seed": run.seed}
    return distilled(prior, prompts, run.recipe, **chosen)[1], len(run.seeds)


@torch.no_grad()
def _bare_call(run: ImageRun | ObjectRun, prior: ImagePrior, batch: int) -> float:
    """Seconds of one denoiser call on the batch."""
    denoiser = prior.denoiser([run.prompt] * batch, guidance=scale_of(run.recipe, prior), negative=run.negative or None)
    x = torch.randn(batch, *prior.event, device=prior.device)
    sigma = torch.tensor(min(1.0, prior.sigmas[1]), device=prior.device)
    found = []
    for _ in range(1 + MEASURED):
        _wait(prior.device)
        start = time.perf_counter()
        denoiser(x, sigma)
        _wait(prior.device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def networks_of(prior: Any) -> list[nn.Module]:
    """The networks of a pipeline prior; none of a prior of another kind."""
    parts = getattr(getattr(prior, "pipeline", None), "components", {})
    return [part for part in parts.values() if isinstance(part, nn.Module)]


def _advice(run: Any, prior: ImagePrior, batch: int, fixed: float, each: float, weights: int) -> Iterator[str]:
    recipe = run.recipe
    share = recipe.calls * each / max(recipe.calls * each + recipe.steps * fixed, 1e-9)
    if share > 0.3:
        if recipe.refresh == 1 and recipe.method != "msd-persistent":
            yield f"--refresh 5: {recipe.calls / 5:g} instead of {recipe.calls:g} denoiser calls, which take {share:.0%} of the time"
        if recipe.method in ("msd-proximal", "msd-split"):
            yield f"--sampler-steps {max(2, recipe.sampler_steps // 2)}: about half the denoiser calls"
        if recipe.samples > 1:
            yield f"--samples 1: a {recipe.samples}th of the denoiser calls"
    if recipe.steps > 100:
        yield f"--steps {recipe.steps // 2}: half the time"
    if run.prior.dtype == "float32" and has_bfloat16(prior.device):
        yield f"--dtype bfloat16: {_size(weights // 2)} less for weights, and faster where the device multiplies in bfloat16"
    if isinstance(run, ObjectRun) and batch > 1:
        yield f"--views {batch // 2}: about half the time and the activations, with noisier steps"
    elif batch > 1:
        yield f"--seeds {batch // 2}: about half the time and the activations"
    if run.prior.image_size is None and prior.image_size[0] > 256:
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


def _peak(device: torch.device) -> int:
    """Peak bytes: allocated on the device since the reset, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
