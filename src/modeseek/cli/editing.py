"""`modeseek edit`: edit an image, given a prompt that describes it and a prompt for the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from modeseek.cli.options import Logged, Model, command_line, follow, prior_choice, run_folder
from modeseek.cli.progress import report_files

if TYPE_CHECKING:
    from modeseek.tasks.editing import EditRun


@dataclass(frozen=True, kw_only=True)
class Edit(Model, Logged):
    """Edit an image towards another prompt with DDS or PDS into OUT: image-0.png, sheet.png, a page, curves. Resumes after a kill."""

    image: tyro.conf.Positional[Path]
    """The image file."""
    source: str
    """Prompt that describes the image."""
    target: str
    """Prompt that describes the edited image."""
    method: str = "dds"
    """dds, pds (coefficients of the released code) or pds-posterior (those of DDPM)."""
    steps: int | None = None
    """Steps of gradient descent, 100 by default."""
    lr: float | None = None
    """Learning rate."""
    guidance: float | None = None
    """Guidance scale s of both prompts."""
    samples: int | None = None
    """Monte-Carlo samples per estimate."""
    seed: int = 0
    """Seed of the gradient's randomness."""
    out: Path | None = None
    """Output folder; runs/edit/TARGET-METHOD by default."""


def edit_run(command: Edit) -> tuple[EditRun, Path]:
    """The run that the options describe, and its folder.

    Raises:
        InvalidInput: an unknown method, or a setting out of range.
    """
    from modeseek.tasks.editing import EditRun, get_edit_recipe

    names = ("steps", "lr", "guidance", "samples")
    recipe = get_edit_recipe(command.method, **{name: getattr(command, name) for name in names})
    texts = {"image": str(command.image), "source": command.source, "prompt": command.target}
    run = EditRun(**texts, prior=prior_choice(command), recipe=recipe, seed=command.seed)
    return run, run_folder(command.out, "edit", command.target, command.method)


def edit(command: Edit) -> None:
    """Run `modeseek edit`."""
    from modeseek.tasks.editing import edit_image

    run, out = edit_run(command)
    follow(command, command.method, edit_image(run, out, command=command_line("edit", command)), out, total=run.recipe.steps)
    report_files([out / name for name in ("index.html", "run.json", "source.png", "image-0.png", "sheet.png")], json_lines=command.json)
