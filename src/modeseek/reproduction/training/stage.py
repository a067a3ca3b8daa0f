"""One network's training: optimisers, schedule, averaged weights, checkpoints, and an end by steps or by the clock."""

from __future__ import annotations

import copy
import math
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.core.errors import WeightsError
from modeseek.core.files import read_state, write_state, write_tensors
from modeseek.core.interrupts import deferred, leave_if_requested, requested
from modeseek.reproduction.training.losses import Loss, autocast, place
from modeseek.reproduction.training.optimisers import adamw, compiled_if_right, muon_and_adamw

CHECKPOINT_KIND, WEIGHTS_KIND = "solids-training", "solids-weights"
WARMUP = 100  # steps over which the learning rate rises
OPTIMISERS: dict[str, Callable[[nn.Module, float], list[torch.optim.Optimizer]]] = {
    "adamw": lambda network, lr: [adamw(network.parameters(), lr)],
    "muon": muon_and_adamw,
}


@dataclass(frozen=True)
class TrainingStep:
    """One step, for a caller that shows progress.

    Attributes:
        stage: its name.
        done, total: steps; `total` is an estimate if the clock ends the stage.
        loss: smoothed, NaN where there is none.
        note: a message for a single event, such as whether the network was compiled.
    """

    stage: str
    done: int
    total: int
    loss: float = math.nan
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One network's training.

    Args:
        name: of the stage and its files.
        network: what is trained.
        loss: what is minimised.
        steps: optimiser steps; with `minutes`, at most.
        lr: highest learning rate; it rises over `WARMUP` steps and falls to 0 along a cosine.
        average: decay of the averaged weights.
        optimiser: "adamw", or "muon" (Muon for matrices and kernels, AdamW for the rest).
        minutes: wall-clock time in which the schedule is to finish, whatever the speed; None: `steps` decides. A resumed stage has as many
            minutes again for what was left of its schedule.
        example: a batch of the network's arguments; the network is compiled where that leaves this batch's gradients as they are.
    """

    name: str
    network: nn.Module
    loss: Loss
    steps: int
    lr: float
    average: float = 0.998
    optimiser: str = "adamw"
    minutes: float | None = None
    example: tuple[Tensor, ...] | None = None

    def run(self, folder: Path, identity: str, *, seed: int = 0, every: int = 200) -> Iterator[TrainingStep]:
        """Train, resuming from `folder`; leaves the averaged weights in `folder/NAME.safetensors`.

        Batch i is seeded by (seed, name, i). Without `minutes`, a run that is killed and started again ends with the same weights.

        Args:
            folder: of the weights and the checkpoint.
            identity: of the settings; a checkpoint of others is refused.
            seed: of the batches.
            every: steps from one checkpoint to the next.

        Raises:
            WeightsError: the checkpoint in `folder` was written with other settings.
            Terminated: SIGTERM arrived where it is handled; the step was finished and saved.
        """
        with deferred():
            yield from self._train(folder, identity, seed, every)

    def _train(self, folder: Path, identity: str, seed: int, every: int) -> Iterator[TrainingStep]:
        finished, checkpoint = folder / f"{self.name}.safetensors", folder / f"{self.name}.checkpoint.safetensors"
        if finished.exists():
            yield TrainingStep(self.name, self.steps, self.steps)
            return
        started = time.monotonic()
        average = copy.deepcopy(self.network).eval()
        optimisers = OPTIMISERS[self.optimiser](self.network, self.lr)
        done, progress = self._resume(checkpoint, f"{self.name} {identity}", average, optimisers)
        self.network.train()
        forward: Any = self.network
        if self.example is not None:
            with autocast(place(self.network)):
                forward, note = compiled_if_right(self.network, self.example)
            yield TrainingStep(self.name, done, self.steps, note=note)
        clock = Progress(progress, self.steps, self.minutes, started)
        smooth = math.nan
        while clock.share(done) < 1:
            share = clock.share(done)
            value = self._step(forward, average, optimisers, done, share, zlib.crc32(f"{seed} {self.name} {done}".encode()))
            done += 1
            smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
            if (done % every == 0 or requested()) and clock.share(done) < 1:
                kept = {
                    "identity": f"{self.name} {identity}",
                    "done": done,
                    "progress": clock.share(done),
                    "network": self.network.state_dict(),
                }
                kept |= {"average": average.state_dict(), "optimisers": [optimiser.state_dict() for optimiser in optimisers]}
                write_state(checkpoint, kept, kind=CHECKPOINT_KIND)
                leave_if_requested()
            yield TrainingStep(self.name, done, max(self.steps, done) if self.minutes is None else round(done / max(share, 1e-3)), smooth)
        write_tensors(finished, average.state_dict(), {"modeseek": WEIGHTS_KIND})
        checkpoint.unlink(missing_ok=True)

    def _step(self, forward: Any, average: nn.Module, optimisers: list[torch.optim.Optimizer], done: int, share: float, seed: int) -> float:
        """One optimiser step at a share of the schedule; returns the loss."""
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.lr * min(1.0, (done + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * share))
        loss = self.loss(forward, torch.Generator().manual_seed(seed), seed)
        self.network.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        keep = min(self.average, (done + 1) / (done + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(self.network.parameters()), 1 - keep)
        return float(loss.detach())

    def _resume(self, checkpoint: Path, identity: str, average: nn.Module, optimisers: list[torch.optim.Optimizer]) -> tuple[int, float]:
        """Load the checkpoint where there is one; steps done, and share of the schedule done."""
        if not checkpoint.exists():
            return 0, 0.0
        state = read_state(checkpoint, kind=CHECKPOINT_KIND)
        if state["identity"] != identity:
            raise WeightsError(f"{checkpoint} was written with other settings ({state['identity']}); remove it to start again")
        self.network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        return state["done"], state["progress"]


@dataclass(frozen=True)
class Progress:
    """Share of a schedule that is done, by steps, or by the clock where that is ahead.

    Args:
        before: share done when this process began.
        steps: of the whole schedule.
        minutes: for what was left of it, compilation included; None: steps alone count.
        started: `time.monotonic()` when they began.
    """

    before: float
    steps: int
    minutes: float | None
    started: float

    def share(self, done: int) -> float:
        """From 0 to 1, after `done` steps."""
        by_steps = done / self.steps
        if self.minutes is None:
            return by_steps
        passed = (time.monotonic() - self.started) / (60 * max(self.minutes, 1e-6))
        return min(1.0, max(by_steps, self.before + (1 - self.before) * passed))
