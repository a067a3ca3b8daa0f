"""The HTML document around a page: one stylesheet, one script, a policy that forbids every connection, and the embedding of files.

A page is one file without references to others. Its Content-Security-Policy is `default-src 'none'` with images from data URIs and inline
styles and scripts, so that a browser refuses any request, whatever text or mesh the page holds.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import modeseek
from modeseek.core.files import write_text

POLICY = "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'none'"


def escaped(text: object) -> str:
    """Text with HTML's special characters replaced, quotes included."""
    return html.escape(str(text), quote=True)


@cache
def asset(name: str) -> str:
    """A stylesheet or script that ships with the package."""
    return files("modeseek.pages").joinpath("assets", name).read_text(encoding="utf-8")


def json_script(identity: str, value: Any) -> str:
    """A JSON value as a `<script>` that page.js reads by its id. "<" is escaped, so no text can end the element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escaped(identity)}">{text}</script>'


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as a data URI of the MIME type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def section(title: str, body: str, *, name: str) -> str:
    """A titled card of the page; empty when its body is."""
    return f'<section id="{escaped(name)}"><h2>{escaped(title)}</h2>\n{body}\n</section>' if body else ""


def chips(pairs: Sequence[tuple[str, object]], *, warnings: Sequence[str] = ()) -> str:
    """The line of short facts under a page's title: (name, value) pairs, then warnings."""
    items = [f"<li>{escaped(name)} <b>{escaped(value)}</b></li>" for name, value in pairs]
    items += [f'<li class="warn">{escaped(text)}</li>' for text in warnings]
    return f'<ul class="chips">{"".join(items)}</ul>'


def document(*, kind: str, title: str, lead: str = "", body: Sequence[str], viewer: bool = False) -> str:
    """Return a complete page.

    Args:
        kind: what the page is of, such as "Text to image"; stands above the title.
        title: the heading.
        lead: HTML between the heading and the first section.
        body: sections as HTML; empty ones are dropped.
        viewer: whether the page needs the mesh viewer's script.
    """
    scripts = "".join(f"<script>\n{asset(name)}</script>\n" for name in ["page.js", *(["viewer.js"] if viewer else [])])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="modeseek {modeseek.__version__}">
<title>{escaped(title)} - modeseek</title>
<link rel="icon" href="data:,">
<style>
{asset("style.css")}</style>
</head>
<body>
<header><p class="kind">{escaped(kind)}</p><h1>{escaped(title)}</h1>{lead}</header>
<main>
{chr(10).join(part for part in body if part)}
</main>
<footer>Written by modeseek {modeseek.__version__}. This file is complete: it opens without a network.</footer>
{scripts}</body>
</html>
"""


def save_document(path: Path, text: str) -> Path:
    """Write a page atomically and return its path.

    Raises:
        OutputError: the folder cannot be written.
    """
    write_text(path, text)
    return path
