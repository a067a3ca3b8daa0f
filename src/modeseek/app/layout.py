"""The app's form and its events, in gradio. Each tab turns its form into a job; one worker runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from modeseek.app.jobs import Job, Worker
from modeseek.app.panes import EMPTY, framed, pane
from modeseek.core.errors import InvalidInput, ModeseekError
from modeseek.pages import write_comparison

POLL = 0.4  # seconds between two looks at a job
Form = dict[str, Any]


@dataclass(frozen=True)
class Tab:
    """One tab.

    Args:
        name: on the tab.
        methods: to choose from, the default first.
        job: the form's values -> a job.
        representations: to choose from; empty: no choice.
        many: whether several seeds make several results.
        image: whether the form takes a source image and a second prompt.
        example: a prompt that works with the embedded prior.
    """

    name: str
    methods: tuple[str, ...]
    job: Callable[[Form], Job]
    representations: tuple[str, ...] = ()
    many: bool = True
    image: bool = False
    example: str = "a red cube on a blue cylinder"


def build(gradio: ModuleType, tabs: list[Tab], root: Path, worker: Worker) -> Any:
    """The whole app as gradio blocks."""
    with gradio.Blocks(title="modeseek", analytics_enabled=False, fill_width=True) as blocks:
        gradio.Markdown("# modeseek\nImages, 3-D objects and edits by score distillation, on this machine alone.")
        for tab in tabs:
            with gradio.Tab(tab.name):
                _tab(gradio, tab, root, worker, blocks)
        with gradio.Tab("Compare"):
            _compare_tab(gradio, root, blocks)
    return blocks


def _tab(gradio: ModuleType, tab: Tab, root: Path, worker: Worker, blocks: Any) -> None:
    with gradio.Row():
        with gradio.Column(scale=1, min_width=300):
            fields: dict[str, Any] = {}
            if tab.image:
                fields["image"] = gradio.Image(label="Source image", type="filepath", sources=["upload"], height=220)
                fields["source"] = gradio.Textbox(label="What the image shows", placeholder=tab.example)
            words = "What it should show" if tab.image else "Prompt"
            fields["prompt"] = gradio.Textbox(label=words, placeholder=tab.example, lines=2)
            fields["method"] = gradio.Dropdown(list(tab.methods), value=tab.methods[0], label="Method")
            if tab.representations:
                fields["representation"] = gradio.Radio(list(tab.representations), value=tab.representations[0], label="Representation")
            if tab.many:
                fields["seeds"] = gradio.Slider(1, 16, value=1, step=1, label="Seeds", info="one image each")
            fields["prior"] = gradio.Textbox(label="Prior", value="solids", info="solids, or a folder in diffusers' layout")
            with gradio.Accordion("More settings", open=False):
                # text, not numbers: an empty number field arrives as 0
                fields["steps"] = gradio.Textbox(label="Steps", info="empty: the method's own")
                fields["guidance"] = gradio.Textbox(label="Guidance scale", info="empty: what suits the prior")
                fields["lr"] = gradio.Textbox(label="Learning rate", info="empty: the method's own")
                fields["negative"] = gradio.Textbox(label="Negative prompt")
                fields["seed"] = gradio.Textbox(label="Seed of the noise", value="0")
                fields["device"] = gradio.Textbox(label="Device", value="cpu", info="cpu, cuda, cuda:1, mps")
            with gradio.Row():
                run = gradio.Button("Run", variant="primary", min_width=70)
                stop, resume = gradio.Button("Stop", min_width=70), gradio.Button("Resume", min_width=70)
            download = gradio.DownloadButton("Download the run (.zip)", interactive=False)
        with gradio.Column(scale=3, min_width=320):
            shown = gradio.HTML(EMPTY)
    names = list(fields)
    mine: list[Job] = []  # jobs of this tab, so that another tab's run is not shown here

    def follow(job: Job) -> Iterator[tuple[str, Any]]:
        while job.active:
            yield pane(job, root), gradio.update(interactive=False)
            time.sleep(POLL)
        archive = zipped(job.folder) if job.state == "finished" else None
        yield pane(job, root), gradio.update(value=archive and str(archive), interactive=archive is not None)

    def begin(*values: Any) -> Iterator[tuple[str, Any]]:
        yield from attempt(lambda: worker.start(tab.job(dict(zip(names, values, strict=True)))))

    def again() -> Iterator[tuple[str, Any]]:
        yield from attempt(worker.resume)

    def attempt(start: Callable[[], Job]) -> Iterator[tuple[str, Any]]:
        try:
            job = start()
        except ModeseekError as error:
            yield pane(mine[-1] if mine else None, root, notice=f"modeseek: {error}"), gradio.update()
            return
        mine.append(job)
        yield from follow(job)

    def look() -> Iterator[tuple[str, Any]]:
        if mine and mine[-1].state != "failed":
            yield from follow(mine[-1])
        else:
            yield EMPTY, gradio.update()

    options: dict[str, Any] = {
        "outputs": [shown, download],
        "show_progress": "hidden",
        "concurrency_limit": None,
        "api_visibility": "private",
    }
    gradio.on([run.click, fields["prompt"].submit], begin, inputs=list(fields.values()), **options)
    resume.click(again, **options)
    stop.click(worker.stop, show_progress="hidden", concurrency_limit=None, api_visibility="private")
    blocks.load(look, **options)


def _compare_tab(gradio: ModuleType, root: Path, blocks: Any) -> None:
    chosen = gradio.Dropdown([], multiselect=True, label="Runs", info="2 to 12 runs; they come from every tab and from the command line")
    with gradio.Row():
        again, button = gradio.Button("Refresh the list"), gradio.Button("Compare", variant="primary")
    shown = gradio.HTML("")

    def runs() -> Any:
        return gradio.update(choices=sorted(str(p.parent.relative_to(root)) for p in root.rglob("run.json")))

    def compared(names: list[str] | None) -> str:
        try:
            if not names:
                raise InvalidInput("no runs chosen: choose at least two from the list")
            return framed(write_comparison([root / name for name in names], root / "compare.html"), root)
        except ModeseekError as error:
            return pane(None, root, notice=f"modeseek: {error}")

    quiet: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
    again.click(runs, outputs=chosen, **quiet)
    blocks.load(runs, outputs=chosen, **quiet)
    button.click(compared, inputs=chosen, outputs=shown, **quiet)


def zipped(folder: Path) -> Path:
    """A .zip of a run's results next to its folder, without the checkpoint."""
    import zipfile

    from modeseek.core.files import write_atomically

    path = folder.with_name(folder.name + ".zip")

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for file in sorted(folder.rglob("*")):
                if file.is_file() and file.suffix != ".safetensors" and not file.name.startswith("."):
                    archive.write(file, Path(folder.name) / file.relative_to(folder))

    write_atomically(path, write)
    return path
