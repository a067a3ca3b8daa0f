"""Runs next to each other on one page: results under one slider, meshes under one camera, curves in the same charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeseek.core.errors import InvalidInput
from modeseek.pages.charts import legend
from modeseek.pages.document import chips, document, escaped, save_document, section
from modeseek.pages.reading import Run
from modeseek.pages.run_page import lead
from modeseek.pages.sections import (
    FRAME_BYTES,
    MESH_BYTES,
    copyable,
    curve_charts,
    image_films,
    mesh_viewer,
    preview_film,
    settings_of,
    slider,
    turntable_film,
    written,
)

MOST = 12  # runs on one page


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write a page that compares runs and return its path.

    Args:
        folders: of two or more runs, in the order of the columns.
        out: the page's file, or a folder for its index.html.

    Raises:
        InvalidInput: fewer than two runs, or more than 12.
        OutputError: a folder holds no run, one of its files is broken, or the page cannot be written.
    """
    path = out if out.suffix in (".html", ".htm") else out / "index.html"
    return save_document(path, comparison([Run(folder) for folder in folders]))


def names_of(runs: Sequence[Run]) -> list[str]:
    """Names of the runs: the method, and the prompt and settings that differ; numbered if the names are still equal.

    The settings named are those that differ among the runs with the same method, so a comparison of methods is named by methods alone.
    """
    tables = [{key: value for key, (value, _) in settings_of(run).items()} for run in runs]
    prompts = len({run.prompt for run in runs}) > 1
    found = []
    for run, own in zip(runs, tables, strict=True):
        rivals = [table for other, table in zip(runs, tables, strict=True) if (other.method, other.prompt) == (run.method, run.prompt)]
        words = [run.method, *([run.prompt] if prompts else [])]
        for key, value in own.items():
            if any(table.get(key) != value for table in rivals):
                words.append(f"{key.rsplit('.', 1)[-1]} {written(value)}")
        found.append(", ".join(words[:5]))
    return [name if found.count(name) == 1 else f"{name} ({found[:k].count(name) + 1})" for k, name in enumerate(found)]


def comparison(runs: Sequence[Run]) -> str:
    """The page as HTML."""
    if not 2 <= len(runs) <= MOST:
        raise InvalidInput(f"a comparison needs 2 to {MOST} runs, got {len(runs)}: give the folders of that many runs")
    names, share = names_of(runs), FRAME_BYTES // len(runs)
    objects = any(run.task == "3d" for run in runs)
    columns = []
    for k, (name, run) in enumerate(zip(names, runs, strict=True)):
        if run.task == "3d":
            shown = preview_film(run, identity=f"film{k}", group="frames", budget=share)
        else:
            shown = f'<div class="grid images">{image_films(run, identity=f"film{k}", group="frames", budget=share)}</div>'
        columns.append(f"<div><h3>{escaped(name)}</h3>{shown}</div>")
    moving = any('class="film"' in column for column in columns)
    results = f'<div class="grid">{"".join(columns)}</div>'
    prompts = sorted({run.prompt for run in runs})
    body = [
        section("Meshes", _meshes(names, runs), name="meshes") if objects else "",
        f'<section class="sticky" id="slider">{slider("frames", "Share of the run")}</section>' if moving else "",
        section("Over the steps" if objects else "Results", results, name="results"),
        section("Curves", _curves(names, runs), name="curves"),
        section("Settings", _settings(names, runs), name="settings"),
        section("Repeat", _commands(names, runs), name="repeat"),
    ]
    facts = chips([("runs", len(runs)), ("methods", ", ".join(dict.fromkeys(run.method for run in runs)))])
    title = prompts[0] if len(prompts) == 1 else f"{len(prompts)} prompts"
    return document(kind="Comparison", title=title, lead=facts, body=body, viewer=objects)


def _meshes(names: Sequence[str], runs: Sequence[Run]) -> str:
    chosen = [(k, name, run) for k, (name, run) in enumerate(zip(names, runs, strict=True)) if run.task == "3d"]
    columns, turning = [], False
    for k, name, run in chosen:
        viewer = mesh_viewer(run, identity=f"mesh{k}", camera="shared", budget=MESH_BYTES // len(chosen))
        table = turntable_film(run, identity=f"turn{k}", group="turn", budget=FRAME_BYTES // 2 // len(chosen))
        turning |= bool(table)
        columns.append(f"<div><h3>{escaped(name)}</h3>{viewer}{table}</div>")
    bar = slider("turn", "Angle", start=0.0, loop=True) if turning else ""
    return f'<div class="grid">{"".join(columns)}</div>{bar}'


def _curves(names: Sequence[str], runs: Sequence[Run]) -> str:
    charts = curve_charts(list(zip(names, runs, strict=True)), identity="curve")
    return legend(names) + charts if charts else ""


def _settings(names: Sequence[str], runs: Sequence[Run]) -> str:
    tables = [settings_of(run) for run in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    lines = []
    for key in keys:
        values = [written(table[key][0]) if key in table else "" for table in tables]
        cells = "".join(f'<td class="text">{escaped(value)}</td>' for value in values)
        lines.append(f"<tr{'' if len(set(values)) > 1 else ' class=same'}><td>{escaped(key)}</td>{cells}</tr>")
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in names)
    table = f'<table id="all-settings"><thead><tr><th>Setting</th>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<p><button type="button" data-all="all-settings">Show all settings</button></p><div class="scroll">{table}</div>'


def _commands(names: Sequence[str], runs: Sequence[Run]) -> str:
    parts = []
    for name, run in zip(names, runs, strict=True):
        command = run.facts.get("command") or run.facts.get("python")
        parts.append(f"<h3>{escaped(name)}</h3>{lead(run)}{copyable(str(command)) if command else ''}")
    return "".join(parts)
