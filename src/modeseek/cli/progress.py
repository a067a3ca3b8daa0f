"""Progress of a command: a bar on a terminal, JSON lines with `--json`, nothing otherwise.

The bar is written to stderr, so stdout contains results only. It is hidden if stderr is not a terminal. `NO_COLOR` disables colours, here
and in the help texts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from modeseek.core.errors import ModeseekError


class Progress(Protocol):
    """The part of `rich.progress.Progress` that commands use."""

    def __enter__(self) -> Progress: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None: ...
    def add_task(self, description: str, *, total: float | None = ...) -> Any: ...
    def update(self, task_id: Any, *, completed: float = ..., total: float | None = ..., description: str = ...) -> None: ...


def progress_bar(*, shown: bool = True, json_lines: bool = False) -> Progress:
    """Return the progress display of a command.

    Args:
        shown: False in processes that report nothing.
        json_lines: print lines of JSON on stdout instead of a bar.
    """
    if json_lines:
        return JsonProgress(shown=shown)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Bar(
        TextColumn("{task.description}", markup=False), *columns, console=Console(stderr=True), disable=not shown or not sys.stderr.isatty()
    )


@dataclass
class _Task:
    description: str
    total: float | None
    started: float = field(default_factory=lambda: time.monotonic())
    first: tuple[float, float] | None = None  # when the first report came, and what was done by then: steps of an earlier process
    done: float = 0.0


@dataclass
class JsonProgress:
    """Print one JSON object per line: `{"event": "progress", "task", "done", "total", "seconds", "left"}`.

    `seconds` is the time since the task began. `left` is estimated from the steps of this process; it is null before the second report.
    """

    shown: bool = True
    tasks: list[_Task] = field(default_factory=list)

    def __enter__(self) -> JsonProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /) -> None:
        return None

    def add_task(self, description: str, *, total: float | None = None) -> int:
        """Begin a task; returns its number."""
        self.tasks.append(_Task(description, total))
        return len(self.tasks) - 1

    def update(self, task_id: int, *, completed: float | None = None, total: float | None = None, description: str | None = None) -> None:
        """Report what is done."""
        task = self.tasks[task_id]
        task.total = task.total if total is None else total
        task.description = task.description if description is None else description
        if completed is None:
            return
        now = time.monotonic()
        task.first, task.done = task.first or (now, completed), completed
        seconds, own = now - task.started, completed - task.first[1]
        left = None if task.total is None or own <= 0 else round((now - task.first[0]) * (task.total - completed) / own, 3)
        line = {
            "event": "progress",
            "task": task.description,
            "done": completed,
            "total": task.total,
            "seconds": round(seconds, 3),
            "left": left,
        }
        if self.shown:
            print(json.dumps(line), flush=True)


def report_files(paths: Sequence[Path], *, json_lines: bool = False) -> None:
    """Print the paths of the files that a command has written, one per line, or as one JSON object `{"event": "done", "files": [...]}`."""
    if json_lines:
        print(json.dumps({"event": "done", "files": [str(path) for path in paths]}), flush=True)
    else:
        print(*(str(path) for path in paths), sep="\n")


def report_error(error: ModeseekError, *, json_lines: bool = False) -> None:
    """Print a user's error on stderr, and with `--json` also as `{"event": "error", "error": NAME, "message": TEXT}` on stdout."""
    if json_lines:
        print(json.dumps({"event": "error", "error": type(error).__name__, "message": str(error)}), flush=True)
    print(f"modeseek: {error}", file=sys.stderr)
