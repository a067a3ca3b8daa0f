"""Rows of results beside the paper's, as JSON for machines and Markdown for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import modeseek
from modeseek.core.files import write_json, write_text
from modeseek.reproduction.published_numbers import published
from modeseek.sweeps.cells import plain

Row = dict[str, Any]
KEYS = ("density", "denoiser", "split", "guidance", "method", "row", "sampler")


def write_results(out: Path, experiment: str, *, rows: list[Row], config: dict[str, Any], columns: list[str], notes: str) -> None:
    """Write `results.json` and `results.md`; a metric beside the paper's reads "ours (paper)".

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
    keys = [key for key in KEYS if any(row.get(key) not in (None, "none", "") for row in rows)]
    head = [*keys, *columns, "calls", "seconds"]
    lines = [f"# {title}", "", notes, "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        printed = row.get("paper") or {}
        values = row.get("metrics") or {}
        cells = [str(row.get(key, "")) for key in keys]
        cells += [_cell(values, printed, column) for column in columns]
        cells += [f"{row['calls']:g}", f"{row['seconds']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    loops = sorted({f"{row['method']}, {row['denoiser']}: {row['loop']}" for row in rows if row.get("loop")})
    return "\n".join([*lines, "", *(f"- {loop}" for loop in loops), ""])


def _cell(values: Row, printed: Row, column: str) -> str:
    """Ours, with its standard error where there is one, and the paper's in brackets; a dash where a column was not measured."""
    ours, paper = values.get(column, "-"), printed.get(column)
    text = "diverged" if ours is None else ours if isinstance(ours, str) else f"{ours:.3g}"
    text += f" ± {values[f'{column} error']:.2g}" if f"{column} error" in values else ""
    return text if paper is None else f"{text} ({paper:g})"
