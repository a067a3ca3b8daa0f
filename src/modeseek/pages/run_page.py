"""The page of one run: index.html in its folder, a single file that opens offline.

An image run's page has at most 10 MB, an object's at most 25 MB: frames are re-encoded and a mesh above 12 MB is left out until then.
"""

from __future__ import annotations

from pathlib import Path

from modeseek.pages.document import chips, document, save_document, section
from modeseek.pages.encoding import embedded, opened
from modeseek.pages.reading import TASKS, Run
from modeseek.pages.sections import (
    FIGURE_BYTES,
    copyable,
    curve_charts,
    figure,
    file_list,
    image_films,
    is_small,
    mesh_viewer,
    preview_film,
    settings_table,
    slider,
    turntable_film,
)


def write_run_page(folder: Path) -> Path:
    """Write index.html into a run's folder and return its path.

    Args:
        folder: of a run of `image`, `3d`, `sample` or `edit`, finished or not.

    Raises:
        OutputError: the folder holds no run, one of its files is broken, or it cannot be written.
    """
    return save_document(folder / "index.html", run_page(Run(folder)))


def run_page(run: Run) -> str:
    """The page of a run as HTML."""
    body = [
        section("Result", _object(run) if run.task == "3d" else _images(run), name="result"),
        section("Over the steps", _over_steps(run), name="steps") if run.task == "3d" else "",
        section("Curves", curve_charts([("", run)], identity="curve"), name="curves"),
        section("Repeat", _repeat(run), name="repeat"),
        section("Settings", settings_table(run), name="settings"),
        section("Files", file_list(run.folder), name="files"),
    ]
    return document(kind=TASKS.get(run.task, run.task), title=run.prompt, lead=lead(run), body=body, viewer=run.task == "3d")


def lead(run: Run) -> str:
    """The short facts under the title."""
    prior = run.config.get("prior") or {}
    name = prior.get("name") if isinstance(prior, dict) else prior
    pairs: list[tuple[str, object]] = [("source", run.config["source"])] if run.task == "edit" and run.config.get("source") else []
    pairs += [("method", run.method), ("prior", Path(str(name)).name if name else "-")]
    pairs += [("steps", run.steps)] if run.steps is not None else []
    for key, words in (("calls", "denoiser calls"), ("guidance", "guidance"), ("seconds", "seconds")):
        value = run.facts.get(key)
        pairs += [(words, f"{value:g}" if key != "seconds" else f"{value:.0f}")] if isinstance(value, int | float) else []
    pairs.append(("version", run.facts.get("version", "-")))
    done = int(run.curves[-1]["step"]) + 1 if run.curves else 0
    warnings = [] if run.finished else [f"unfinished, {done} steps done: run the command again to resume"]
    return chips(pairs, warnings=warnings)


def _images(run: Run) -> str:
    films = image_films(run, identity="film", group="frames")
    if not films:
        return '<p class="soft">There is no image yet.</p>'
    source = run.file("source.png")
    before = ""
    if source is not None:
        before = figure(embedded([source], budget=FIGURE_BYTES)[0], "source image", small=is_small(opened(source)))
    moving = slider("frames", "Step", start=1.0) if 'class="film"' in films else ""
    return f'<div class="grid images">{before}{films}</div>{moving}'


def _object(run: Run) -> str:
    turning = turntable_film(run, identity="turntable", group="turn")
    turntable = f"<div>{turning}{slider('turn', 'Angle', start=0.0, loop=True)}</div>" if turning else ""
    parts = f'<div class="grid" style="--least:320px">{mesh_viewer(run, identity="mesh", camera="mesh")}{turntable}</div>'
    paths = [(path, name) for name in ("depth", "normals") if (path := run.file(f"{name}.png")) is not None]
    uris = embedded([path for path, _ in paths], budget=FIGURE_BYTES)
    stills = "".join(figure(uri, f"{name} from four sides") for uri, (_, name) in zip(uris, paths, strict=True))
    return parts + (f'<div class="grid" style="--least:320px;margin-top:16px">{stills}</div>' if stills else "")


def _over_steps(run: Run) -> str:
    film = preview_film(run, identity="film", group="frames")
    return film + slider("frames", "Step") if film else ""


def _repeat(run: Run) -> str:
    command, code = run.facts.get("command"), run.facts.get("python")
    if command:
        python = f"<details><summary>In Python</summary>{copyable(str(code))}</details>" if code else ""
        return copyable(str(command)) + python
    return copyable(str(code)) if code else ""
