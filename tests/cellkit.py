"""Cells for the tests of the runner: tiny, importable from worker processes."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from modeseek.core.errors import InvalidInput, OutputError
from modeseek.sweeps.cells import Result


@dataclass(frozen=True)
class Square:
    """Squares a number and notes in `log` that it ran."""

    number: int
    log: Path
    seconds: float = 0.0

    @property
    def title(self):
        return f"square of {self.number}"

    def run(self):
        with self.log.open("a") as file:
            file.write(f"{self.number} {os.getpid()}\n")
        time.sleep(self.seconds)
        return Result({"number": self.number, "square": self.number**2}, {"value": torch.tensor([float(self.number)])})


@dataclass(frozen=True)
class Failing:
    number: int
    log: Path
    how: str = "error"

    @property
    def title(self):
        return f"failing {self.how} {self.number}"

    def run(self):
        with self.log.open("a") as file:
            file.write(f"failing {os.getpid()}\n")
        if self.how == "error":
            raise InvalidInput("the number is unlucky")
        if self.how == "crash":
            return 1 / 0
        if self.how == "full":
            raise OutputError("cannot write there: No space left on device")
        raise AssertionError(self.how)


@dataclass(frozen=True)
class Fragile:
    """Kills its process until `log` has `times` lines."""

    times: int
    log: Path

    @property
    def title(self):
        return f"fragile {self.times}"

    def run(self):
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(self.log.read_text().splitlines()) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        return Result({"survived": True})


@dataclass(frozen=True)
class Hungry:
    """Does not fit unless run with low memory."""

    log: Path
    ever: bool = True

    @property
    def title(self):
        return "hungry"

    def run_in(self, folder, *, low_memory):
        with self.log.open("a") as file:
            file.write(f"{low_memory} {os.getpid()}\n")
        if not (low_memory and self.ever):
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "made").write_text("x")
        return Result({"fits": True})


@dataclass(frozen=True)
class Slow:
    """Counts to `steps`, keeps its count, and saves on SIGTERM."""

    name: str
    steps: int = 200

    @property
    def title(self):
        return f"slow {self.name}"

    def run_in(self, folder, *, low_memory):
        from modeseek.core.interrupts import deferred, leave_if_requested, requested

        folder.mkdir(parents=True, exist_ok=True)
        saved = folder / "count"
        start = int(saved.read_text()) if saved.exists() else 0
        with deferred():
            for step in range(start, self.steps):
                time.sleep(0.01)
                if requested():
                    saved.write_text(str(step + 1))
                    leave_if_requested()
        return Result({"started at": start})
