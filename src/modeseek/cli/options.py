"""Options and helpers that several commands share. Importing a command imports no torch, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from rich.progress import Progress

    from modeseek.tasks.text_to_image import PriorChoice


@dataclass(frozen=True, kw_only=True)
class Model:
    """Options of every command that loads a prior."""

    prior: str = "solids"
    """solids, a folder in diffusers' layout, or a hub id."""
    device: str = "cpu"
    """cpu, cuda, cuda:1, mps."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the prior's networks."""
    download: bool = False
    """Download the model from the hub if it is not on disk."""


@dataclass(frozen=True, kw_only=True)
class Prompted(Model):
    """Options of every command that takes a prompt."""

    prompt: tyro.conf.Positional[str]
    """Text prompt; `3d` appends the name of each view."""
    guidance: float | None = None
    """Guidance scale s of D_u + s (D_c - D_u); the prior's own by default."""
    negative: str = ""
    """Negative prompt."""
    out: Path | None = None
    """Output folder; runs/COMMAND/PROMPT-METHOD by default."""


def prior_choice(command: Model) -> PriorChoice:
    """The prior that the options name."""
    from modeseek.tasks.text_to_image import PriorChoice

    size = getattr(command, "image_size", None)
    return PriorChoice(name=command.prior, device=command.device, dtype=command.dtype, image_size=size, download=command.download)


def run_folder(out: Path | None, kind: str, *words: str) -> Path:
    """The output folder: the one given, or one named after the command and its words."""
    slug = "-".join("".join(c if c.isalnum() else "-" for c in word.lower()) for word in words)
    return out or Path("runs") / kind / slug[:80]


def progress_bar(*, shown: bool = True) -> Progress:
    """A progress bar with elapsed and remaining time."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns, disable=not shown)
