"""The page of a sweep: index.html next to its table, a grid of results with filters, without a server and without a network."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modeseek.core.files import write_text

STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181c; --line: #3a3d42; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 1.5rem; }
form { display: flex; flex-wrap: wrap; gap: .75rem 1.5rem; align-items: end; margin-bottom: 1rem; }
label { display: grid; gap: .2rem; font-size: 13px; }
input, select { font: inherit; padding: .25rem .4rem; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .5rem; text-align: left; vertical-align: top; }
thead th { position: sticky; top: 0; background: var(--paper); }
th[scope=row] { max-width: 18rem; font-weight: normal; }
img { display: block; width: var(--side, 112px); height: auto; image-rendering: pixelated; }
figure { margin: 0; } figcaption { font-size: 12px; }
.missing { opacity: .6; font-size: 12px; } .scroll { overflow-x: auto; }
"""

SCRIPT = """
const data = JSON.parse(document.getElementById("rows").textContent);
const form = document.querySelector("form"), body = document.querySelector("tbody"), head = document.querySelector("thead");
const unique = name => [...new Set(data.map(row => row[name]))];
for (const name of ["prior", "method", "seed"]) {
  const select = form.elements[name];
  for (const value of unique(name)) select.add(new Option(value, value));
}
const node = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
function draw() {
  const wanted = name => form.elements[name].value, words = wanted("prompt").toLowerCase();
  const rows = data.filter(row => ["prior", "method", "seed"].every(name => !wanted(name) || String(row[name]) === wanted(name))
    && row.prompt.toLowerCase().includes(words));
  const several = unique("prior").length > 1;
  const column = row => (several ? row.prior + ", " : "") + row.method + ", seed " + row.seed;
  const columns = [...new Set(rows.map(column))], prompts = [...new Set(rows.map(row => row.prompt))];
  const found = new Map(rows.map(row => [row.prompt + "\\u0000" + column(row), row]));
  document.body.style.setProperty("--side", wanted("side") + "px");
  const names = ["prompt", ...columns].map(name => node("th", {scope: "col", textContent: name}));
  head.replaceChildren(node("tr", {}, ...names));
  body.replaceChildren(...prompts.map(prompt => node("tr", {}, node("th", {scope: "row", textContent: prompt}),
    ...columns.map(name => { const row = found.get(prompt + "\\u0000" + name); return node("td", {}, row ? cell(row) : ""); }))));
  document.getElementById("count").textContent = rows.length + " of " + data.length + " results";
}
function cell(row) {
  if (row.error) return node("span", {className: "missing", textContent: "failed: " + row.error});
  if (!row.image) return node("span", {className: "missing", textContent: "not finished"});
  const image = node("img", {src: encodeURI(row.image), loading: "lazy", alt: row.prompt + ", " + row.method + ", seed " + row.seed});
  const link = node("a", {href: encodeURI(row.image.replace(/[^/]*$/, ""))}, image);
  return node("figure", {}, link, node("figcaption", {textContent: row.calls + " calls"}));
}
form.addEventListener("input", draw);
form.addEventListener("submit", event => event.preventDefault());
draw();
"""


def write_page(out: Path, rows: Sequence[dict[str, Any]], *, title: str = "Sweep") -> Path:
    """Write `index.html` into `out`.

    Args:
        out: folder of the sweep.
        rows: of the table; unfinished cells may be there with an `error`, or without an `image`.
        title: heading.
    """
    kept = ("prompt", "method", "seed", "prior", "calls", "image", "error")
    data = json.dumps([{name: row[name] for name in kept if name in row} for row in rows], ensure_ascii=False).replace("</", "<\\/")
    options = "".join(
        f'<label>{name}<select name="{name}"><option value="">all</option></select></label>' for name in ("prior", "method", "seed")
    )
    text = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
<h1>{html.escape(title)}</h1>
<form>
<label>prompt contains<input name="prompt" type="search"></label>{options}
<label>image width<input name="side" type="range" min="48" max="384" value="112"></label>
<output id="count"></output>
</form>
<p><a href="table.csv">table.csv</a></p>
<div class="scroll"><table><thead></thead><tbody></tbody></table></div>
<noscript>The grid needs JavaScript; the table is in table.csv.</noscript>
<script type="application/json" id="rows">{data}</script>
<script>{SCRIPT}</script>
</html>
"""
    write_text(out / "index.html", text)
    return out / "index.html"
