"""Experiments as independent cells: a frozen configuration that runs on its own and whose result, once on disk, is not run again.

A cell's file name carries a hash of its configuration and of the weights in the package, so a changed setting or a prior trained anew is a
new cell, and experiments that share a cell share its result. The worker that ran a cell writes its files itself, atomically: a run killed
at any moment goes on from the finished cells and ends with the same numbers (times aside).
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput, OutputError
from modeseek.core.files import read_json, read_tensors, write_json, write_tensors
from modeseek.priors.embedded import ASSETS

KIND = "experiment-cell"
FORMAT = 2  # raise it when a change of code changes what finished cells mean


@dataclass(frozen=True)
class Result:
    """What a cell found: a row for the table (JSON values only) and arrays for the figures."""

    row: dict[str, Any]
    arrays: dict[str, Tensor] = field(default_factory=dict)


class Cell(Protocol):
    """A frozen dataclass with a readable `title` and a `run`."""

    @property
    def title(self) -> str: ...
    def run(self) -> Result: ...


def cell_path(cell: Cell, out: Path) -> Path:
    """Where a cell's result is kept.

    Raises:
        InvalidInput: the cell's text holds a memory address, so that another process would look elsewhere.
    """
    if " at 0x" in repr(cell):
        raise InvalidInput(f"{cell.title}: use named classes and dataclasses in a cell's settings, not functions")
    digest = hashlib.sha256(f"{FORMAT} {shipped_weights()} {cell!r}".encode()).hexdigest()[:12]
    slug = "".join(c if c.isalnum() else "-" for c in cell.title.lower())
    return out / "cells" / f"{slug}-{digest}.json"


@cache
def shipped_weights() -> str:
    """A hash of every network inside the package."""
    digest = hashlib.sha256()
    for path in sorted(ASSETS.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load(cell: Cell, out: Path) -> Result | None:
    """A finished cell's result, or None where there is none yet."""
    path = cell_path(cell, out)
    if not path.exists():
        return None
    row = read_json(path)
    if not isinstance(row, dict) or row.get("format") != FORMAT:
        raise OutputError(f"{path} is no result of this version; move it away or choose another folder")
    arrays = read_tensors(path.with_suffix(".safetensors"), kind=KIND)[0] if row["arrays"] else {}
    return Result(row["row"], arrays)


def execute(cell: Cell, out: Path) -> None:
    """Run a cell and keep its result, arrays first, so that a row on disk is always whole."""
    start = time.perf_counter()
    result = cell.run()
    row = {**result.row, "seconds": round(time.perf_counter() - start, 2)}
    path = cell_path(cell, out)
    if result.arrays:
        arrays = {name: value.contiguous() for name, value in result.arrays.items()}
        write_tensors(path.with_suffix(".safetensors"), arrays, {"modeseek": KIND})
    write_json(path, {"format": FORMAT, "title": cell.title, "row": plain(row), "arrays": sorted(result.arrays)})


def run_cells(cells: Sequence[Cell], out: Path, *, workers: int = 1) -> Iterator[Cell]:
    """Run the unfinished cells, `workers` at a time in processes of their own; yields each as it is finished.

    Cells already on disk are yielded first. Each worker gets its share of the cores.

    Raises:
        InvalidInput: workers < 1.
        OutputError: the folder cannot be written or holds something else.
    """
    if workers < 1:
        raise InvalidInput(f"workers must be at least 1, got {workers}")
    check_folder(out)
    finished: list[Cell] = []
    waiting: list[Cell] = []
    for cell in {repr(cell): cell for cell in cells}.values():
        (waiting if load(cell, out) is None else finished).append(cell)
    yield from finished
    if workers == 1:
        for cell in waiting:
            execute(cell, out)
            yield cell
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(threads,)) as pool:
        futures = {pool.submit(execute, cell, out): cell for cell in waiting}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(threads: int) -> None:
    """Take a share of the cores, and die with the parent: a killed run must leave no worker behind."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def check_folder(out: Path) -> None:
    """Raise `OutputError` unless `out` can be made and written."""
    try:
        (out / "cells").mkdir(parents=True, exist_ok=True)
        probe = out / f".write-test.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write to {out}: {error.strerror or error}; choose another folder with --out") from error


def plain(value: Any) -> Any:
    """JSON values: infinities and NaN become the strings "inf", "-inf", "nan"; floats keep six significant digits."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
