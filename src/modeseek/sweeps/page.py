"""The page of a sweep: index.html next to its table, a grid of results with filters, without a server and without a network.

The page shows the images in `cells/`, so it must stay in its folder; the pages of single runs (`modeseek.pages`) are complete in one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from modeseek.core.files import write_text
from modeseek.pages.document import asset, escaped, json_script

STYLE = """
main, body > header, body > footer { max-width: none; }
form { display: flex; flex-wrap: wrap; gap: .75rem 1.5rem; align-items: end; margin-bottom: 1rem; }
label { display: grid; gap: .2rem; font-size: 13px; }
.results { overflow-x: auto; }
.results table { border-collapse: collapse; }
.results th, .results td { border-bottom: 1px solid var(--line); padding: .4rem .5rem; text-align: left; vertical-align: top; }
.results th[scope=row] { max-width: 18rem; font-weight: normal; }
.results img { width: var(--side, 112px); image-rendering: pixelated; }
.missing { color: var(--soft); font-size: 12px; }
"""
KEPT = ("prompt", "method", "seed", "prior", "calls", "image", "error")


def write_page(out: Path, rows: Sequence[dict[str, Any]], *, title: str = "Sweep") -> Path:
    """Write `index.html` into `out` and return its path.

    Args:
        out: folder of the sweep.
        rows: of the table; unfinished cells may be there with an `error`, or without an `image`.
        title: heading.

    Raises:
        OutputError: the folder cannot be written.
    """
    choices = "".join(
        f'<label>{name}<select name="{name}"><option value="">all</option></select></label>' for name in ("prior", "method", "seed")
    )
    script = files("modeseek.sweeps").joinpath("assets", "grid.js").read_text(encoding="utf-8")
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)} - modeseek</title>
<link rel="icon" href="data:,">
<style>
{asset("style.css")}{STYLE}</style>
</head>
<body>
<header><p class="kind">Sweep</p><h1>{escaped(title)}</h1><p><a href="table.csv">table.csv</a></p></header>
<main><section>
<form>
<label>prompt contains<input name="prompt" type="search"></label>{choices}
<label>image width<input name="side" type="range" min="48" max="384" value="112"></label>
<output id="count"></output>
</form>
<div class="results"><table><thead></thead><tbody></tbody></table></div>
<noscript>The grid needs JavaScript; the table is in table.csv.</noscript>
</section></main>
{json_script("rows", [{name: row[name] for name in KEPT if name in row} for row in rows])}
<script>
{script}</script>
</body>
</html>
"""
    write_text(out / "index.html", text)
    return out / "index.html"
