"""Read a run's folder: settings, curves, images, frames and mesh. Pages and notebooks display runs through it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from modeseek.core.errors import OutputError
from modeseek.core.files import read_json
from modeseek.pages.encoding import animation_frames, opened

Task = Literal["image", "3d", "sample", "edit"]
TASKS: dict[str, str] = {"image": "Text to image", "3d": "Text to 3-D", "sample": "DDIM samples", "edit": "Image editing"}


@dataclass(frozen=True)
class Run:
    """The folder of one run.

    Args:
        folder: holds `run.json`.

    Raises:
        OutputError: there is no run in the folder, or its run.json is broken.

    In a notebook a run shows its page; `print(run)` says what it is in one line.
    """

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        config = self.facts.get("config") if isinstance(self.facts, dict) else None
        if not isinstance(config, dict) or "prompt" not in config:
            raise OutputError(f"{self.folder / 'run.json'} does not describe a run: it has no config with a prompt")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """All of run.json."""
        path = self.folder / "run.json"
        if not path.is_file():
            raise OutputError(f"{self.folder} holds no run: there is no run.json; give the folder that a command has written to")
        return read_json(path)

    @property
    def config(self) -> dict[str, Any]:
        """The settings as the run was started with them."""
        return self.facts["config"]

    @property
    def prompt(self) -> str:
        """The text prompt."""
        return str(self.config["prompt"])

    @property
    def task(self) -> str:
        """image, 3d, sample or edit."""
        guess = "3d" if "preset" in self.config else "image" if "recipe" in self.config else "sample"
        return str(self.facts.get("task", guess))

    @property
    def method(self) -> str:
        """The gradient's name; DDIM for samples."""
        recipe = self.config.get("recipe") or {}
        return str(self.facts.get("method") or recipe.get("method") or ("DDIM" if self.task == "sample" else self.task))

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return bool(self.facts.get("finished"))

    @property
    def seeds(self) -> list[int]:
        """One for each image; the single seed of an object."""
        seeds = self.config.get("seeds")
        return [int(s) for s in seeds] if isinstance(seeds, list) else [int(self.config.get("seed", 0))]

    @property
    def steps(self) -> int | None:
        """Optimiser steps of the complete run; None if there are none."""
        value = (self.config.get("recipe") or {}).get("steps", self.config.get("steps"))
        return None if value is None else int(value)

    @cached_property
    def curves(self) -> list[dict[str, float]]:
        """One dict per step: `step`, `calls` and, where the method has them, `bandwidth`, `residual`, `sigma`. Broken lines are dropped."""
        path = self.folder / "curves.jsonl"
        found = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and "step" in value:
                found.append(value)
        return found

    @cached_property
    def frames(self) -> list[tuple[int, Path]]:
        """(step, file) of every frame kept, in order. A frame of an image run has its seeds side by side."""
        paths = sorted((self.folder / "frames").glob("[0-9]*.png"))
        return [(int(path.stem), path) for path in paths if path.stem.isdigit()]

    @property
    def results(self) -> list[tuple[int, Path]]:
        """(seed, file) of every result image, `image-SEED.png`, by seed. An edit has one, with number 0."""
        paths = [(path.stem.removeprefix("image-"), path) for path in self.folder.glob("image-*.png")]
        return sorted((int(number), path) for number, path in paths if number.isdigit())

    def file(self, name: str) -> Path | None:
        """A file of the folder, or None where there is none."""
        path = self.folder / name
        return path if path.is_file() else None

    def turntable(self) -> list[Image.Image]:
        """The object from all around, the front first; empty for other runs."""
        path = self.file("turntable.gif")
        return animation_frames(path) if path else []

    def image(self) -> Image.Image | None:
        """The result as one image: its seeds side by side, or the object from four sides."""
        if self.results:
            parts = [opened(path).convert("RGB") for _, path in self.results]
            strip = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white")
            left = 0
            for part in parts:
                strip.paste(part, (left, 0))
                left += part.width
            return strip
        path = self.file("preview.png") or (self.frames[-1][1] if self.frames else None)
        return opened(path) if path else None

    def __str__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"{TASKS.get(self.task, self.task)}: {self.prompt!r} by {self.method}, {state}, in {self.folder}"

    def _repr_png_(self) -> bytes | None:
        """The result, for notebooks."""
        from modeseek.pages.notebook import png

        image = self.image()
        return None if image is None else png(image)

    def _repr_html_(self) -> str:
        """The run's page in a frame, for notebooks."""
        from modeseek.pages.notebook import framed
        from modeseek.pages.run_page import run_page

        return framed(run_page(self))
