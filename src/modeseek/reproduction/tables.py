"""Tables of measured results with the published numbers in brackets, as JSON and as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import modeseek
from modeseek.core.files import write_json, write_text
from modeseek.reproduction.published_numbers import published
from modeseek.sweeps.cells import plain

Row = dict[str, Any]
KEYS = ("density", "denoiser", "split", "guidance", "method", "row", "sampler")
SHOWN = ("density", "denoiser", "split", "guidance", "method", "sampler")


def write_results(out: Path, experiment: str, *, rows: list[Row], config: dict[str, Any], columns: list[str], notes: str) -> None:
    """Write `results.json` and `results.md`; a metric that the paper prints too is followed by the paper's in brackets.

    Args:
        out: folder.
        experiment: its name.
        rows: what the cells returned, in the order of the table.
        config: the settings the rows share, with their seed.
        columns: metrics to print, in order.
        notes: a paragraph for the reader of the Markdown.
    """
    for row in rows:
        row.setdefault("paper", published(row["density"], row["denoiser"], row["guidance"], row["method"]))
    head = {"experiment": experiment, "version": modeseek.__version__, "seed": config["seed"], "config": config}
    write_json(out / "results.json", plain({**head, "columns": columns, "notes": notes, "rows": rows}))
    write_text(out / "results.md", markdown(experiment, rows, columns, notes))


def markdown(title: str, rows: list[Row], columns: list[str], notes: str) -> str:
    """One Markdown table of rows."""
    keys = [key for key in SHOWN if any(row.get(key) not in (None, "none", "") for row in rows)]
    head = [*keys, *columns, "calls", "seconds"]
    lines = [f"# {title}", "", notes, "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        published_values = row.get("paper") or {}
        values = row.get("metrics") or {}
        cells = [label_of(row) if key == "method" else str(row.get(key, "")) for key in keys]
        cells += [_cell(values, published_values, column) for column in columns]
        cells += [f"{row['calls']:g}", f"{row['seconds']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    loops = sorted({f"{row['method']}, {row['denoiser']}: {row['loop']}" for row in rows if row.get("loop")})
    return "\n".join([*lines, "", *(f"- {loop}" for loop in loops), ""])


def label_of(row: Row) -> str:
    """A row's method with its settings in brackets.

    Example:
        >>> label_of({"method": "MSD", "row": "adaptive bandwidth"}), label_of({"method": "DDIM", "row": "reference"})
        ('MSD (adaptive bandwidth)', 'DDIM')
    """
    return row["method"] if row.get("row") in (None, "", "reference") else f"{row['method']} ({row['row']})"


def averaged(rows: list[Row], *, keys: Sequence[str] = KEYS) -> list[Row]:
    """Rows that agree in `keys` averaged over their seeds, with `"NAME error"`, the standard error of the mean, next to each metric.

    A metric of one seed has no error, and one that is infinite or a string for any seed has none. Rows without metrics (diverged runs) are
    left out of the mean and counted in `diverged`. Calls are averaged, seconds added.

    Example:
        >>> rows = [{"method": "A", "metrics": {"nll": nll}, "calls": 1.0, "seconds": 2.0} for nll in (1.0, 3.0)]
        >>> averaged(rows)[0]["metrics"], averaged(rows)[0]["seconds"]
        ({'nll': 2.0, 'nll error': 1.0}, 4.0)
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    found = []
    for group in groups.values():
        measured = [row["metrics"] for row in group if row["metrics"] is not None]
        metrics: dict[str, Any] | None = None if not measured else {}
        for name in measured[0] if measured else ():
            values = [float(one[name]) for one in measured]
            mean = sum(values) / len(values)
            assert metrics is not None
            metrics[name] = mean
            if len(values) > 1 and math.isfinite(mean):
                metrics[f"{name} error"] = statistics.stdev(values) / math.sqrt(len(values))
        row = group[0] | {"metrics": metrics, "seeds": len(group), "diverged": len(group) - len(measured)}
        row |= {name: sum(one[name] for one in group) / (len(group) if name == "calls" else 1) for name in ("calls", "seconds")}
        found.append(row)
    return found


def _cell(values: Row, published_values: Row, column: str) -> str:
    """The measured value, with its standard error where there is one, and the paper's in brackets; a dash where nothing was measured."""
    measured, paper = values.get(column, "-"), published_values.get(column)
    text = "diverged" if measured is None else measured if isinstance(measured, str) else f"{measured:.3g}"
    text += f" ± {values[f'{column} error']:.2g}" if f"{column} error" in values else ""
    return text if paper is None else f"{text} ({paper:g})"
