"""Cells: independent jobs, each defined by a frozen configuration, with one result on disk.

A cell's file name contains a hash of its configuration and of the weights it depends on. A changed setting or a retrained prior is a new
cell, a finished cell is never run again, and experiments that contain the same cell share its result. The process that ran a cell
writes its files atomically, the row last, so a row on disk is always complete.

    cells/NAME-HASH.json           the row, {"format", "title", "row", "arrays"}
    cells/NAME-HASH.safetensors    arrays, where there are any
    cells/NAME-HASH/               what a cell with a folder keeps there: images, its checkpoint
    cells/NAME-HASH.error.json     why the last attempt failed
    leases/NAME-HASH.lease-N       which process works on it now (`modeseek.sweeps.leases`)
"""

from __future__ import annotations

import hashlib
import math
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from modeseek.core.errors import InvalidInput, ModeseekError, OutputError, WeightsError
from modeseek.core.files import read_object, read_tensors, slug, write_json, write_tensors
from modeseek.priors.embedded import ASSETS

KIND = "experiment-cell"
FORMAT = 3  # raise it when a change of code changes what finished cells mean


@dataclass(frozen=True)
class Result:
    """The result of a cell: a row for the table (JSON values only) and arrays for the figures."""

    row: dict[str, Any]
    arrays: dict[str, Tensor] = field(default_factory=dict)


class Cell(Protocol):
    """A frozen dataclass with a readable `title` and a `run`."""

    @property
    def title(self) -> str: ...
    def run(self) -> Result: ...


@runtime_checkable
class FolderCell(Protocol):
    """A cell with its own folder of files, from which it resumes; with `low_memory` it needs about half the memory."""

    @property
    def title(self) -> str: ...
    def run_in(self, folder: Path, *, low_memory: bool) -> Result: ...


AnyCell = Cell | FolderCell


def cell_path(cell: AnyCell, out: Path) -> Path:
    """Return the path of a cell's row.

    Raises:
        InvalidInput: the cell's text contains a memory address, so other processes would compute another path.
    """
    text = repr(cell)
    if " at 0x" in text:
        raise InvalidInput(f"{cell.title}: use named classes and dataclasses in a cell's settings, not functions")
    prior: Any = getattr(cell, "prior", None)
    weights = shipped_weights() + (prior.digest() if hasattr(prior, "digest") and prior.name != "solids" else "")
    digest = hashlib.sha256(f"{FORMAT} {weights} {text}".encode()).hexdigest()[:12]
    return out / "cells" / f"{slug(cell.title)}-{digest}.json"


@cache
def shipped_weights() -> str:
    """A hash of every network inside the package."""
    digest = hashlib.sha256()
    for path in sorted(ASSETS.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def load(cell: AnyCell, out: Path) -> Result | None:
    """Load the result of a finished cell; None if there is none yet.

    Raises:
        OutputError: its files are damaged or of another version; the message names the file.
    """
    path = cell_path(cell, out)
    if not path.exists():
        return None
    row = read_object(path, "format", "row", "arrays")
    if row["format"] != FORMAT:
        raise OutputError(f"{path} is not a result of this version; move it away or choose another folder")
    try:
        arrays = read_tensors(path.with_suffix(".safetensors"), kind=KIND, allow="any")[0] if row["arrays"] else {}
    except WeightsError as error:
        raise OutputError(f"{error}; remove {path} to run the cell again") from error
    return Result(row["row"], arrays)


def save(cell: AnyCell, out: Path, result: Result, *, seconds: float) -> None:
    """Save a result, arrays first, and remove the record of an earlier failure."""
    path = cell_path(cell, out)
    if result.arrays:
        arrays = {name: value.contiguous() for name, value in result.arrays.items()}
        write_tensors(path.with_suffix(".safetensors"), arrays, {"modeseek": KIND})
    row = {**result.row, "seconds": round(seconds, 2)}
    write_json(path, {"format": FORMAT, "title": cell.title, "row": plain(row), "arrays": sorted(result.arrays)})
    error_path(path).unlink(missing_ok=True)


def execute(cell: AnyCell, out: Path, *, low_memory: bool = False) -> None:
    """Run a cell in this process and save its result."""
    start = time.perf_counter()
    own = cell_path(cell, out).with_suffix("")
    result = cell.run_in(own, low_memory=low_memory) if isinstance(cell, FolderCell) else cell.run()
    save(cell, out, result, seconds=time.perf_counter() - start)


# ---------------------------------------------------------------- failures
@dataclass(frozen=True)
class Failure:
    """Why a cell's last attempt failed: one line, and the traceback."""

    title: str
    error: str
    traceback: str = ""


def error_path(path: Path) -> Path:
    """Where a failed cell's error is kept, from the path of its row."""
    return path.with_name(f"{path.stem}.error.json")


def record_failure(cell: AnyCell, out: Path, error: BaseException) -> Failure:
    """Save an error with its traceback."""
    words = str(error) if isinstance(error, ModeseekError) else f"{type(error).__name__}: {error}"
    text = "".join(traceback.format_exception(error))
    failure = Failure(cell.title, " ".join(words.split())[:500], text)
    write_json(error_path(cell_path(cell, out)), {"format": FORMAT, "title": cell.title, "error": failure.error, "traceback": text})
    return failure


def failure_of(cell: AnyCell, out: Path) -> Failure | None:
    """The failure of a cell's last attempt, or None."""
    path = error_path(cell_path(cell, out))
    if not path.exists():
        return None
    found = read_object(path, "error")
    return Failure(cell.title, str(found["error"]), str(found.get("traceback", "")))


def forget_failures(cells: Sequence[AnyCell], out: Path) -> None:
    """Remove the error files of these cells, so that they run again."""
    for cell in cells:
        error_path(cell_path(cell, out)).unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """JSON values: infinities and NaN become the strings "inf", "-inf", "nan"; floats keep six significant digits."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
