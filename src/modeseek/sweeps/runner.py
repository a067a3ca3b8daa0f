"""Run every unfinished cell once on an executor. A failure affects only its own cell, and several drivers may share one folder.

`run_cells` drives an executor from one process. `run_shard` runs part of the cells in this process; many of them may work on one folder.
Both take a lease for each cell, so two of them never run the same cell, and one takes over the cells of another that died.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from pathlib import Path

from modeseek.core.errors import CellsFailed, InvalidInput, OutputError, WorkerLost
from modeseek.core.interrupts import Terminated
from modeseek.sweeps import leases
from modeseek.sweeps.cells import AnyCell, Failure, cell_path, failure_of, forget_failures, load, record_failure
from modeseek.sweeps.executors import LocalPool, ending
from modeseek.sweeps.worker import Outcome, work

POLL = 0.5  # seconds between looks at cells that another process runs
LIVES = 5  # workers that may die on one cell before it counts as failed


def run_cells(
    cells: Sequence[AnyCell],
    out: Path,
    *,
    workers: int = 1,
    threads: int | None = None,
    executor: Executor | None = None,
    retry_failed: bool = False,
    ttl: float = leases.TTL,
) -> Iterator[AnyCell]:
    """Run the unfinished cells and yield each cell once it is finished; those already on disk come first.

    A cell that fails is recorded with its traceback in `cells/NAME.error.json` and the others still run. A cell whose worker dies is run
    again. A cell that runs out of memory is run once more in a fresh worker with `low_memory`.

    Args:
        cells: what to run; equal cells count once.
        out: folder of the cells.
        workers: processes of the local pool; 1 runs in this process.
        threads: of torch in a worker; None: the cores divided by the workers.
        executor: where to run instead; shut down by the caller.
        retry_failed: run cells again that failed in an earlier run; otherwise they count as failed.
        ttl: seconds after which the lease of a silent process expires.

    Raises:
        InvalidInput: workers < 1.
        OutputError: the folder cannot be written, or a file in it is damaged.
        CellsFailed: at the end, with a list, where some cells failed.
    """
    if workers < 1:
        raise InvalidInput(f"workers must be at least 1, got {workers}")
    check_folder(out)
    finished, waiting = _sorted(cells, out, retry_failed)
    yield from finished
    failures = {cell: failure for cell in waiting if (failure := failure_of(cell, out)) is not None}
    waiting = [cell for cell in waiting if cell not in failures]
    if executor is not None:
        yield from _drive(waiting, out, executor, failures, ttl)
    elif workers == 1 or not waiting:
        yield from _here(waiting, out, failures, ttl, patience=math.inf)
    else:
        with ending(LocalPool(min(workers, len(waiting)), threads=threads)) as pool:
            yield from _drive(waiting, out, pool, failures, ttl)
    _report(failures, out)


def run_shard(
    cells: Sequence[AnyCell],
    out: Path,
    shard: tuple[int, int],
    *,
    retry_failed: bool = False,
    ttl: float = leases.TTL,
) -> Iterator[AnyCell]:
    """Run every n-th cell in this process, as one of n independent jobs: `shard` is (k, n), k from 1 to n.

    Cells that another process runs are left to it, once it has shown for `ttl` seconds that it is alive: the lease may be that of this
    job before it was killed. Yields and raises as `run_cells`.
    """
    number, count = shard
    if not 1 <= number <= count:
        raise InvalidInput(f"a shard is K/N with K from 1 to N, got {number}/{count}")
    check_folder(out)
    own = list({repr(cell): cell for cell in cells}.values())[number - 1 :: count]
    finished, waiting = _sorted(own, out, retry_failed)
    yield from finished
    failures = {cell: failure for cell in waiting if (failure := failure_of(cell, out)) is not None}
    yield from _here([cell for cell in waiting if cell not in failures], out, failures, ttl, patience=1.25 * ttl)
    _report(failures, out)


def _sorted(cells: Sequence[AnyCell], out: Path, retry_failed: bool) -> tuple[list[AnyCell], list[AnyCell]]:
    """Finished and unfinished cells, each once; the unfinished ordered by prior, so that a worker loads each prior once."""
    finished: list[AnyCell] = []
    waiting: dict[str, list[AnyCell]] = {}
    for cell in {repr(cell): cell for cell in cells}.values():
        if load(cell, out) is not None:
            finished.append(cell)
        else:
            waiting.setdefault(repr(getattr(cell, "prior", None)), []).append(cell)
    unfinished = [cell for group in waiting.values() for cell in group]
    if retry_failed:
        forget_failures(unfinished, out)
    return finished, unfinished


def _drive(cells: Sequence[AnyCell], out: Path, executor: Executor, failures: dict[AnyCell, Failure], ttl: float) -> Iterator[AnyCell]:
    """Submit every cell, follow the answers, submit again what was lost; cells of other processes are waited for."""
    lost: Counter[AnyCell] = Counter()
    elsewhere: list[AnyCell] = []
    running: dict[Future[Outcome], AnyCell] = {executor.submit(work, cell, out, ttl=ttl): cell for cell in cells}
    low: set[AnyCell] = set()
    while running or elsewhere:
        done, _ = wait(running, timeout=POLL if elsewhere else None, return_when=FIRST_COMPLETED)
        for future in done:
            cell = running.pop(future)
            try:
                outcome = future.result()
                if outcome.state == "stopped":
                    raise WorkerLost("somebody ended the worker")
            except WorkerLost as error:
                lost[cell] += 1
                if lost[cell] > 1:
                    low.add(cell)  # the system may have killed it for its memory
                if lost[cell] < LIVES:
                    running[executor.submit(work, cell, out, low_memory=cell in low, ttl=ttl)] = cell
                else:
                    words = f"{lost[cell]} workers ended while they ran it ({error}); it may need more memory than there is"
                    failures[cell] = record_failure(cell, out, WorkerLost(words))
                continue
            except Exception as error:  # the call itself did not get through: not picklable, no process to be had
                failures[cell] = record_failure(cell, out, error)
                continue
            if outcome.state == "memory":
                low.add(cell)
                running[executor.submit(work, cell, out, low_memory=True, ttl=ttl)] = cell
            elif outcome.state == "held":
                elsewhere.append(cell)
            elif _settled(outcome, cell, out, failures):
                yield cell
        for cell in list(elsewhere):
            if cell_path(cell, out).exists():
                elsewhere.remove(cell)
                yield cell
            elif not leases.is_held(cell_path(cell, out), ttl=ttl):
                elsewhere.remove(cell)
                if (failure := failure_of(cell, out)) is not None:
                    failures[cell] = failure
                else:
                    running[executor.submit(work, cell, out, low_memory=cell in low, ttl=ttl)] = cell


def _here(cells: Sequence[AnyCell], out: Path, failures: dict[AnyCell, Failure], ttl: float, *, patience: float) -> Iterator[AnyCell]:
    """Run cells one after another in this process, then wait up to `patience` seconds for those of others."""
    waiting, deadline = list(cells), math.inf
    while waiting:
        elsewhere: list[AnyCell] = []
        for cell in waiting:
            outcome = work(cell, out, ttl=ttl)
            if outcome.state == "memory":
                outcome = work(cell, out, low_memory=True, ttl=ttl)
            if outcome.state == "held":
                elsewhere.append(cell)
            elif _settled(outcome, cell, out, failures):
                yield cell
        waiting = []
        for cell in elsewhere:
            if (failure := failure_of(cell, out)) is not None and not leases.is_held(cell_path(cell, out), ttl=ttl):
                failures[cell] = failure
            else:
                waiting.append(cell)
        deadline = min(deadline, time.monotonic() + patience)
        if time.monotonic() >= deadline:
            return
        if waiting:
            time.sleep(min(POLL, ttl / 4))


def _settled(outcome: Outcome, cell: AnyCell, out: Path, failures: dict[AnyCell, Failure]) -> bool:
    """Whether the cell is done; a failure is noted, and what ends a worker ends the run."""
    if outcome.state == "output":
        raise OutputError(outcome.error)
    if outcome.state == "stopped":
        raise Terminated if outcome.error == "Terminated" else KeyboardInterrupt
    if outcome.state == "failed":
        failures[cell] = failure_of(cell, out) or Failure(cell.title, outcome.error)
    return outcome.state == "done"


def _report(failures: dict[AnyCell, Failure], out: Path) -> None:
    leases.remove_folder(out)
    if failures:
        listing = "; ".join(f"{failure.title}: {failure.error}" for failure in list(failures.values())[:5])
        more = f"; and {len(failures) - 5} more" if len(failures) > 5 else ""
        words = "1 cell failed" if len(failures) == 1 else f"{len(failures)} cells failed"
        raise CellsFailed(
            f"{words}: {listing}{more}. Tracebacks are in {out / 'cells'}/*.error.json; --retry-failed runs them again",
            {failure.title: failure.error for failure in failures.values()},
        )


def check_folder(out: Path) -> None:
    """Raise `OutputError` unless `out` can be made and written."""
    probe = out / f".write-test.{os.getpid()}.part"
    try:
        (out / "cells").mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}; choose another folder with --out") from error
    finally:
        with suppress(OSError):
            probe.unlink()
