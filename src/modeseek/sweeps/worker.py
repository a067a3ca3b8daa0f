"""Run one cell in a worker: acquire its lease, run it, save the result or the error, and return an `Outcome`.

A cell's own errors never leave this module as exceptions, so one failing cell does not stop the others. Three things do stop a worker:
a folder that cannot be written (`OutputError`), SIGTERM and Ctrl-C.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from modeseek.core.errors import FolderInUse, OutOfMemory, OutputError
from modeseek.core.interrupts import on_signal
from modeseek.sweeps import leases
from modeseek.sweeps.cells import AnyCell, cell_path, execute, record_failure

MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell.

    Attributes:
        state: "done"; "failed", its error is on disk; "held", another process works on it; "memory", it did not fit and may be tried again
            with less; "output", its folder cannot be written; "stopped", the worker received a stop signal.
        error: one line.
    """

    state: Literal["done", "failed", "held", "memory", "output", "stopped"]
    error: str = ""

    @property
    def restart_worker(self) -> bool:
        """Whether a pool should replace the process: its memory is fragmented, or it is ending."""
        return self.state in ("memory", "stopped")


def work(cell: AnyCell, out: Path, *, low_memory: bool = False, ttl: float = leases.TTL) -> Outcome:
    """Run one cell under its lease.

    Args:
        cell: what to run; a finished one is not run again.
        out: folder of the cells.
        low_memory: run with about half the memory, where the cell can; running out of memory is then a failure.
        ttl: seconds after which a lease without a sign of life expires.
    """
    path = cell_path(cell, out)
    _Busy.cells += 1
    try:
        if path.exists():
            return Outcome("done")
        lease = leases.acquire(path, ttl=ttl)
        if lease is None:
            return Outcome("held", leases.holder(path) or "")
        with lease.kept(ttl):
            if path.exists():  # finished between the two looks
                return Outcome("done")
            for leftover in (*path.parent.glob(f".{path.stem}*.part"), *path.with_suffix("").rglob(".*.part")):
                leftover.unlink(missing_ok=True)  # of a killed process
            return _run(cell, out, low_memory=low_memory)
    except FolderInUse as error:
        return Outcome("held", str(error))
    except OutputError as error:
        return Outcome("output", str(error))
    except KeyboardInterrupt as error:
        leases.abandon(path)
        return Outcome("stopped", type(error).__name__)
    finally:
        _Busy.cells -= 1


class _Busy:
    """Whether this process runs a cell: only then does SIGTERM wait for a checkpoint."""

    cells = 0


def _run(cell: AnyCell, out: Path, *, low_memory: bool) -> Outcome:
    try:
        execute(cell, out, low_memory=low_memory)
        return Outcome("done")
    except OutputError:
        raise
    except Exception as error:
        if is_out_of_memory(error) and not low_memory:
            free_memory()
            return Outcome("memory", " ".join(str(error).split())[:300])
        return Outcome("failed", record_failure(cell, out, error).error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or one it was raised from, says that memory ran out; allocators have many words for it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError | OutOfMemory) or any(words in str(seen).lower() for words in MEMORY_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def free_memory() -> None:
    """Drop cached priors and the allocator's blocks."""
    import torch

    opened.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@lru_cache(maxsize=1)
def opened(choice: Any) -> Any:
    """The prior of a `PriorChoice`, loaded once per process and kept until another is used; cells are ordered by prior."""
    return choice.open()


def start_worker(threads: int | None, slot: int = 0) -> None:
    """Prepare a process of a local pool: its share of the cores, its GPU, its signals, and its end when the parent ends."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = devices.split(",") if devices else [str(k) for k in range(_gpus())]
    if len(found) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = found[slot % len(found)]
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and sends SIGTERM
    signal.signal(signal.SIGTERM, lambda number, frame: on_signal(number, frame) if _Busy.cells else os._exit(0))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _gpus() -> int:
    """GPUs of this machine, counted without starting CUDA."""
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
