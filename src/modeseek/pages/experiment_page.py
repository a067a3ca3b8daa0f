"""The page of a reproduced table or figure: index.html in its folder, with sortable tables, the paper's numbers and every figure.

It reads `results.json` and the PNG files that the command has written, and computes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modeseek.core.errors import OutputError
from modeseek.core.files import read_json
from modeseek.pages.document import chips, document, escaped, save_document, section
from modeseek.pages.encoding import embedded
from modeseek.pages.sections import copyable, figure, file_list, flat, written

KEYS = ("density", "denoiser", "guidance", "method", "row", "sampler", "split", "prompt", "seed")
COSTS = ("calls", "seconds")
FIGURES_BYTES = 12_000_000
Row = dict[str, Any]


def write_experiment_page(folder: Path) -> Path:
    """Write index.html into the folder of a table or figure and return its path.

    Raises:
        OutputError: the folder has no results.json, one of its files is broken, or it cannot be written.
    """
    return save_document(folder / "index.html", experiment_page(folder))


def experiment_page(folder: Path) -> str:
    """The page as HTML."""
    path = folder / "results.json"
    if not path.is_file():
        raise OutputError(f"{folder} holds no results: there is no results.json; give a folder that `modeseek run` has written to")
    results = read_json(path)
    rows = [row for row in results.get("rows", []) if isinstance(row, dict)]
    columns = results.get("columns") or _metrics(rows)
    figures = sorted(folder.glob("*.png"))
    shown = "".join(figure(uri, path.stem) for uri, path in zip(embedded(figures, budget=FIGURES_BYTES), figures, strict=True))
    notes = f'<p class="soft">{escaped(results["notes"])}</p>' if results.get("notes") else ""
    loops = sorted({f"{row['method']}, {row.get('denoiser', '')}: {row['loop']}" for row in rows if row.get("loop")})
    loops_list = f"<details><summary>Settings of each row</summary><ul>{''.join(f'<li>{escaped(x)}</li>' for x in loops)}</ul></details>"
    one_by_one = [
        {**{key: row.get(key) for key in KEYS if row.get(key)}, **one}
        for row in rows
        for one in row.get("objects", [])
        if isinstance(one, dict)
    ]
    config = "".join(
        f'<tr><td>{escaped(name)}</td><td class="text">{escaped(written(value))}</td></tr>'
        for name, value in flat(results.get("config", {})).items()
    )
    body = [
        section("Results", notes + table(rows, columns) + (loops_list if loops else ""), name="results") if rows else "",
        section("Figures", f'<div class="grid" style="--least:480px">{shown}</div>' if shown else "", name="figures"),
        section("One by one", table(one_by_one, _metrics(one_by_one)) if one_by_one else "", name="one-by-one"),
        section("Repeat", copyable(results["command"]) if results.get("command") else "", name="repeat"),
        section("Settings", f'<div class="scroll"><table><tbody>{config}</tbody></table></div>' if config else "", name="settings"),
        section("Files", file_list(folder), name="files"),
    ]
    facts = [("rows", len(rows)), ("seed", results.get("seed", "-")), ("version", results.get("version", "-"))]
    quick = ["quick: fewer points, images and steps"] if results.get("config", {}).get("quick") else []
    title = str(results.get("title") or results.get("experiment", folder.name))
    return document(kind="Reproduction", title=title, lead=chips(facts, warnings=quick), body=body)


def _metrics(rows: list[Row]) -> list[str]:
    """Names of all metrics, in the order of their first appearance, without their errors."""
    names = dict.fromkeys(name for row in rows for name in row.get("metrics") or {})
    return [name for name in names if not (name.endswith(" error") and name.removesuffix(" error") in names)]


def table(rows: list[Row], columns: list[str]) -> str:
    """A sortable table: what names a row, then each metric with its standard error and, next to it, the paper's value, then the cost."""
    keys = [key for key in KEYS if any(row.get(key) not in (None, "none", "") for row in rows)]
    costs = [cost for cost in COSTS if any(isinstance(row.get(cost), int | float) for row in rows)]
    published = [column for column in columns if any((row.get("paper") or {}).get(column) is not None for row in rows)]
    head = [_head(key) for key in keys]
    for column in columns:
        head.append(_head(column, "number"))
        head += [_head("paper", "number paper")] if column in published else []
    head += [_head(cost, "number") for cost in costs]
    lines = []
    for row in rows:
        cells = [f'<td class="text">{escaped("" if row.get(key) in (None, "none") else row[key])}</td>' for key in keys]
        values, paper = row.get("metrics") or {}, row.get("paper") or {}
        for column in columns:
            cells.append(_metric(values, column))
            cells += [_number(paper.get(column), "number paper")] if column in published else []
        cells += [_number(row.get(cost), "number", digits=0 if cost == "seconds" else None) for cost in costs]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{"".join(head)}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _head(name: str, kind: str = "") -> str:
    return f'<th class="{kind}" scope="col"><button type="button">{escaped(name)}</button></th>'


def _metric(values: Row, column: str) -> str:
    value, error = values.get(column, ""), values.get(f"{column} error")
    if value is None:
        return '<td class="number" data-value="Infinity">diverged</td>'
    if not isinstance(value, int | float):
        return f'<td class="number" data-value="">{escaped(value) or "-"}</td>'
    spread = f' <span class="error">± {error:.2g}</span>' if isinstance(error, int | float) else ""
    return f'<td class="number" data-value="{value!r}">{value:.3g}{spread}</td>'


def _number(value: Any, kind: str, *, digits: int | None = None) -> str:
    if not isinstance(value, int | float):
        return f'<td class="{kind}" data-value=""></td>'
    return f'<td class="{kind}" data-value="{value!r}">{f"{value:g}" if digits is None else f"{value:.{digits}f}"}</td>'
