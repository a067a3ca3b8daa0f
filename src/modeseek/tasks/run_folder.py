"""The folder of a run: run.json holds its settings and its state, curves.jsonl one line per step, index.html its page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

import modeseek
from modeseek.core.errors import OutputError
from modeseek.core.files import read_object, write_json, write_text
from modeseek.core.locks import locked
from modeseek.distillation.loop import Step
from modeseek.pages import write_run_page
from modeseek.scaling.ranks import ALONE, Ranks

State = Literal["new", "going on", "finished"]


@contextmanager
def claimed(out: Path, run: Any, *, weights: str = "", ranks: Ranks = ALONE, facts: dict[str, Any] | None = None) -> Iterator[State]:
    """Hold `out` as this run's folder inside the block; yields whether the run is new, half done, or finished.

    Args:
        out: the folder.
        run: dataclass of settings.
        weights: a digest of the prior's weights: the same settings with other weights count as a different run.
        ranks: processes of the run, of which the first holds the folder.
        facts: further entries of run.json, such as where the settings come from.

    Raises:
        FolderInUse: another process works in it.
        OutputError: it holds a run with other settings, its run.json is damaged, or it cannot be written.
    """
    with ExitStack() as stack:

        def take() -> State:
            stack.enter_context(locked(out))
            return claim(out, plain_config(run), weights=weights, facts=facts)

        yield ranks.on_main(take)


def claim(out: Path, config: dict[str, Any], *, weights: str = "", facts: dict[str, Any] | None = None) -> State:
    """Make `out` this run's folder; `claimed` also locks it. The page of a finished run is written if it is missing.

    Raises:
        OutputError: it holds a run with other settings, its run.json is damaged, or it cannot be written.
    """
    path = out / "run.json"
    if path.exists():
        found = read_object(path, "config")
        if found.get("finished") is False and all(other == path or other.name.startswith(".") for other in out.iterdir()):
            write_json(path, header(config, weights) | (facts or {}))  # that run ended before its first step: there is nothing to lose
            return "new"
        if found["config"] != config:
            raise OutputError(f"{out} holds another run ({_difference(found['config'], config)}); choose another --out")
        if found.get("weights", weights) != weights:
            raise OutputError(f"{out} holds a run with other weights of the same prior; choose another --out")
        if not found.get("finished"):
            return "going on"
        if not (out / "index.html").exists():  # killed between run.json and the page
            write_run_page(out)
        return "finished"
    if (out / "sweep.json").exists():
        raise OutputError(f"{out} holds a sweep; choose another --out")
    write_json(path, header(config, weights) | (facts or {}))
    return "new"


def complete(out: Path, run: Any, weights: str, facts: dict[str, Any]) -> None:
    """Mark the run in `out` as finished and write its page.

    Args:
        out: the folder.
        run: dataclass of settings.
        weights: a digest of the prior's weights.
        facts: how the run ended. A command that run.json holds already is kept where `facts` has none.
    """
    path = out / "run.json"
    command = read_object(path, "config").get("command") if path.exists() else None
    kept = {"command": command} if command else {}
    write_json(path, header(plain_config(run), weights, finished=True) | kept | facts)
    write_run_page(out)


def header(config: dict[str, Any], weights: str = "", *, finished: bool = False) -> dict[str, Any]:
    """Return the first entries of every run.json."""
    return {"version": modeseek.__version__, "config": config, "weights": weights, "finished": finished}


def _difference(found: Any, config: dict[str, Any]) -> str:
    """The first setting in which two runs differ."""
    if not isinstance(found, dict):
        return "its config is damaged"
    for key in sorted(found.keys() | config.keys()):
        old, new = found.get(key), config.get(key)
        if old != new:
            if isinstance(old, dict) and isinstance(new, dict):
                return f"{key}: {_difference(old, new)}"
            return f"{key} is {old!r} there and {new!r} here"
    return "other settings"


def plain_config(run: Any) -> dict[str, Any]:
    """Convert a dataclass to JSON values."""
    return json.loads(json.dumps(asdict(run)))


def line_of(step: Step) -> dict[str, float]:
    """The line of curves.jsonl for a step: index, denoiser calls, and the batch means of bandwidth, residual and noise level, if any."""
    found = {"step": step.index, "calls": step.calls}
    for name in ("bandwidth", "residual", "sigma"):
        value = step.estimate.info.get(name)
        if value is not None:
            found[name] = float(torch.as_tensor(value, dtype=torch.float64).mean())
    return found


class CurveLog:
    """curves.jsonl of a run: a line for each step, on disk before the step's checkpoint is.

    Lines are appended. A kill can truncate the last one; readers ignore truncated lines. A resumed run keeps lines before its first step.
    """

    def __init__(self, out: Path, *, writes: bool = True) -> None:
        self._out, self._writes = out, writes
        self._lines: list[dict[str, float]] | None = None

    def add(self, step: Step, **further: float) -> None:
        """Keep a step's line, with further values in it."""
        if self._lines is None:
            self._lines = lines_before(self._out, step.index)
            if self._writes:
                write_lines(self._out, self._lines)
        self._lines.append(line_of(step) | further)
        if self._writes:
            try:
                with (self._out / "curves.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(self._lines[-1]) + "\n")
            except OSError as error:
                raise OutputError(f"cannot write {self._out / 'curves.jsonl'}: {error.strerror or error}") from error

    def last(self, name: str, step: int) -> float:
        """The latest value of this name before `step`; 0 if there is none."""
        lines = lines_before(self._out, step) if self._lines is None else self._lines
        return next((line[name] for line in reversed(lines) if name in line), 0.0)

    @property
    def lines(self) -> list[dict[str, float]]:
        """All lines; those on disk where this process made no step."""
        return lines_before(self._out, math.inf) if self._lines is None else self._lines


def lines_before(out: Path, step: float) -> list[dict[str, float]]:
    """The lines of curves.jsonl before `step`, in order, up to the first damaged one."""
    path = out / "curves.jsonl"
    found: list[dict[str, float]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            if line["step"] < step:
                found.append(line)
        except (ValueError, KeyError, TypeError):
            break  # cut by a kill
    return found


def write_lines(out: Path, lines: list[dict[str, float]]) -> None:
    """Write curves.jsonl anew."""
    write_text(out / "curves.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
