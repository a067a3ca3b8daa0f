"""The parts that pages are made of: films, meshes, curves, settings, commands and lists of files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from modeseek.pages.charts import Series, chart
from modeseek.pages.document import escaped, json_script
from modeseek.pages.encoding import embedded, opened
from modeseek.pages.reading import Run

FRAME_BYTES = 5_000_000  # of all frames of a page, before base64
MESH_BYTES = 12_000_000  # a larger mesh is left out of the page
FIGURE_BYTES = 4_000_000  # of all still images of a page
CURVES = {
    "residual": "Residual |x - target|",
    "bandwidth": "Bandwidth",
    "sigma": "Noise level sigma",
    "calls": "Denoiser calls",
}
SOURCES = {
    "given": "set by the command or the caller",
    "recipe": "from the recipe of the method",
    "prior": "what suits the prior",
    "default": "the task's default",
}


def figure(uri: str, caption: str, *, small: bool = False) -> str:
    """An image with a caption; `small` ones are enlarged without smoothing."""
    return f'<figure><img src="{uri}" alt="{escaped(caption)}"{_small(small)}><figcaption>{escaped(caption)}</figcaption></figure>'


def _small(small: bool) -> str:
    return ' class="small"' if small else ""


def film(
    identity: str, uris: Sequence[str], labels: Sequence[str], caption: str, *, group: str, steps: Sequence[int] = (), small: bool = False
) -> str:
    """Frames under a slider; the last one is shown until the slider moves.

    Args:
        identity: unique on the page.
        uris: the frames.
        labels: what each frame shows, such as "step 40".
        caption: below the image.
        group: films of one group move together, with the `slider` of that group.
        steps: the step of each frame, where charts shall mark it.
        small: enlarge without smoothing.
    """
    value: dict[str, Any] = {"frames": list(uris), "labels": list(labels)}
    if steps:
        value["steps"] = list(steps)
    return (
        f'<figure class="film" data-film="{escaped(identity)}" data-group="{escaped(group)}">'
        f'<img src="{uris[-1]}" alt="{escaped(caption)}"{_small(small)}>'
        f"<figcaption>{escaped(caption)}</figcaption>{json_script(identity, value)}</figure>"
    )


def slider(group: str, name: str, *, start: float = 1.0, loop: bool = False) -> str:
    """The slider and the play button of a group of films."""
    return (
        f'<div class="bar" data-group="{escaped(group)}"{" data-loop=true" if loop else ""}><button type="button" aria-pressed="false">Play'
        f'</button><input type="range" min="0" max="1" value="{start:g}" step="any" aria-label="{escaped(name)}"><output></output></div>'
    )


def is_small(image: Image.Image) -> bool:
    """Whether an image is enlarged so far that its pixels should stay visible."""
    return max(image.size) < 200


def image_films(run: Run, *, identity: str, group: str, budget: int = FRAME_BYTES) -> str:
    """A run's images over its steps, one film for each seed; still images where no frames were kept."""
    if not run.results and not run.frames:
        return ""
    seeds = run.seeds if run.task == "image" or len(run.results) > 1 else [run.seeds[0]]
    if len(run.frames) < 2:
        paths = [path for _, path in run.results] or [run.frames[-1][1]]
        named = [f"seed {seed}" for seed, _ in run.results] if run.task != "edit" else ["edited image"]
        names = named if run.results else ["last frame"]
        uris, small = embedded(paths, budget=budget), is_small(opened(paths[0]))
        return "".join(figure(uri, name, small=small) for uri, name in zip(uris, names, strict=True))
    strips = [opened(path).convert("RGB") for _, path in run.frames]
    width = strips[0].width // len(seeds)
    labels, steps = [f"step {step + 1}" for step, _ in run.frames], [step for step, _ in run.frames]
    parts = [[strip.crop((k * width, 0, (k + 1) * width, strip.height)) for strip in strips] for k in range(len(seeds))]
    uris = embedded([part for row in parts for part in row], budget=budget)
    made = []
    for k, seed in enumerate(seeds):
        own, caption = uris[k * len(strips) : (k + 1) * len(strips)], f"seed {seed}" if run.task != "edit" else "edited image"
        made.append(film(f"{identity}-{seed}", own, labels, caption, group=group, steps=steps, small=is_small(parts[k][0])))
    return "".join(made)


def preview_film(run: Run, *, identity: str, group: str, budget: int = FRAME_BYTES // 2) -> str:
    """An object from four sides over the steps of its run; empty where no frames were kept."""
    if not run.frames:
        return ""
    uris = embedded([path for _, path in run.frames], budget=budget)
    labels, steps = [f"step {step + 1}" for step, _ in run.frames], [step for step, _ in run.frames]
    small = opened(run.frames[0][1]).height < 128
    return film(identity, uris, labels, "the object from four sides", group=group, steps=steps, small=small)


def turntable_film(run: Run, *, identity: str, group: str, budget: int = FRAME_BYTES // 2) -> str:
    """The object from all around; empty where there is no turntable."""
    images = run.turntable()
    if not images:
        return ""
    labels = [f"{360 * k / len(images):.0f}°" for k in range(len(images))]
    return film(identity, embedded(images, budget=budget), labels, "the volume from all around", group=group, small=is_small(images[0]))


def mesh_viewer(run: Run, *, identity: str, camera: str, budget: int = MESH_BYTES) -> str:
    """The run's mesh.glb in a viewer; a sentence that says why where there is none, or where it is too large for a page."""
    path = run.file("mesh.glb")
    if path is None:
        why = run.facts.get("why")
        return f'<p class="soft">There is no mesh{": " + escaped(why) if why else ""}.</p>'
    size = path.stat().st_size
    payload, note = "", "Drag to turn, Shift and drag to move, scroll to zoom, double-click to reset; or the arrow keys, + and -."
    if size <= budget:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        payload = f'<script type="application/octet-stream" id="{escaped(identity)}">{data}</script>'
    else:
        note = f"mesh.glb has {size / 1e6:.0f} MB, more than this page may hold: drop the file here to see it."
    modes = [("colour", "Colour"), ("shape", "Shape"), ("normals", "Normals")]
    buttons = "".join(
        f'<button type="button" data-mode="{mode}" aria-pressed="{str(mode == "colour").lower()}">{name}</button>' for mode, name in modes
    )
    return (
        f'<div class="viewer" data-mesh="{escaped(identity)}" data-camera="{escaped(camera)}">'
        f'<canvas tabindex="0" role="img" aria-label="The mesh; it turns with the arrow keys"></canvas>'
        f'<div class="bar">{buttons}<button type="button" data-reset>Reset view</button></div>'
        f'<p class="note">{escaped(note)}</p></div>{payload}'
    )


def curve_charts(runs: Sequence[tuple[str, Run]], *, identity: str) -> str:
    """One chart for each quantity that a run has recorded; several runs share them, over the share of their steps if those differ."""
    by_share = len({run.steps for _, run in runs}) > 1
    charts = []
    for key, title in CURVES.items():
        series = []
        for name, run in runs:
            lines = [line for line in run.curves if isinstance(line.get(key), int | float)]
            whole = max((run.steps or 1) - 1, 1)
            xs = [100 * line["step"] / whole if by_share else line["step"] for line in lines]
            series.append(Series(name if len(runs) > 1 else "", xs, [line[key] for line in lines]))
        label = "% of the run" if by_share else "step"
        charts.append(chart(f"{identity}-{key}", title, series, x_label=label, by_share=by_share, may_log=key != "calls"))
    made = "".join(charts)
    return f'<div class="grid" style="--least:300px">{made}</div>' if made else ""


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names.

    Example:
        >>> flat({"prompt": "a cat", "recipe": {"steps": 4}})
        {'prompt': 'a cat', 'recipe.steps': 4}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def settings_of(run: Run) -> dict[str, tuple[Any, str]]:
    """Name -> (value, source) of every setting; the source is "" in folders that do not record it."""
    recorded = run.facts.get("settings")
    if isinstance(recorded, dict):
        return {name: (entry.get("value"), str(entry.get("source", ""))) for name, entry in recorded.items() if isinstance(entry, dict)}
    return {name: (value, "") for name, value in flat(run.config).items()}


def written(value: Any) -> str:
    """A setting's value for people: numbers short, lists with commas, nothing as a dash."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(written(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def settings_table(run: Run) -> str:
    """Every setting with its value and where it comes from; those that are the task's defaults are folded away."""
    settings = settings_of(run)
    order = [*SOURCES, ""]
    rows: dict[bool, list[str]] = {False: [], True: []}
    for name, (value, source) in sorted(settings.items(), key=lambda item: order.index(item[1][1]) if item[1][1] in order else 0):
        badge = (
            f'<span class="badge {escaped(source)}" title="{escaped(SOURCES.get(source, ""))}">{escaped(source)}</span>' if source else ""
        )
        row = f'<tr><td>{escaped(name)}</td><td class="text">{escaped(written(value))}</td><td>{badge}</td></tr>'
        rows[source == "default"].append(row)
    sourced = any(source for _, source in settings.values())
    key = "; ".join(f"{name}: {words}" for name, words in SOURCES.items()) + "." if sourced else "This run did not record sources."
    head = '<thead><tr><th scope="col">Setting</th><th scope="col">Value</th><th scope="col">Source</th></tr></thead>'
    shown, folded = (f'<div class="scroll"><table>{head}<tbody>{"".join(rows[k])}</tbody></table></div>' for k in (False, True))
    more = f"<details><summary>{len(rows[True])} defaults</summary>{folded}</details>" if rows[True] else ""
    return f'{shown if rows[False] else ""}{more}<p class="soft">{escaped(key)}</p>'


def copyable(text: str) -> str:
    """Return code with a button that copies it."""
    return f'<div class="copyable"><pre><code>{escaped(text)}</code></pre><button type="button" data-copy>Copy</button></div>'


def file_list(folder: Path, *, without: Sequence[str] = ("index.html",)) -> str:
    """Links to the folder's files with their sizes; they work as long as the page stays in its folder."""
    items = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in without and not path.name.startswith("."):
            items.append(
                f'<li><a href="{escaped(_url(path.name))}">{escaped(path.name)}</a> <span>{_size(path.stat().st_size)}</span></li>'
            )
    return f'<ul class="files">{"".join(items)}</ul>' if items else ""


def _url(name: str) -> str:
    from urllib.parse import quote

    return quote(name)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"
