"""What every run keeps in its folder: run.json says what was asked and whether it is done, curves.jsonl has a line a step."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

import modeseek
from modeseek.core.errors import OutputError
from modeseek.core.files import read_json, write_json, write_text
from modeseek.distillation.loop import Step


def claim(out: Path, config: dict[str, Any]) -> Literal["new", "going on", "finished"]:
    """Make `out` this run's folder.

    Raises:
        OutputError: it holds a run with other settings, or cannot be written.
    """
    path = out / "run.json"
    if path.exists():
        found = read_json(path)
        if found.get("config") != config:
            raise OutputError(
                f"{out} holds another run ({found.get('config', {}).get('prompt')!r} or other settings); choose another --out"
            )
        return "finished" if found.get("finished") else "going on"
    write_json(path, {"version": modeseek.__version__, "config": config, "finished": False})
    return "new"


def plain_config(run: Any) -> dict[str, Any]:
    """A dataclass as JSON values."""
    return json.loads(json.dumps(asdict(run)))


def line_of(step: Step) -> dict[str, float]:
    """A step's line of curves.jsonl: calls, and the means of bandwidth, residual and noise level where it has them."""
    found = {"step": step.index, "calls": step.calls}
    for name in ("bandwidth", "residual", "sigma"):
        value = step.estimate.info.get(name)
        if value is not None:
            found[name] = float(torch.as_tensor(value, dtype=torch.float64).mean())
    return found


def lines_before(out: Path, step: float) -> list[dict[str, float]]:
    """The lines a run has on disk of steps before `step`: what an interrupted run wrote beyond its checkpoint is dropped."""
    path = out / "curves.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["step"] < step]


def write_lines(out: Path, lines: list[dict[str, float]]) -> None:
    """Write curves.jsonl anew."""
    write_text(out / "curves.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
