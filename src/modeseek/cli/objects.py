"""`modeseek 3d` and `modeseek export`: generate a 3-D object from a prompt, and export its meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from modeseek.cli.options import Logged, Prompted, command_line, follow, prior_choice, run_folder
from modeseek.cli.progress import report_files

if TYPE_CHECKING:
    from modeseek.tasks.text_to_3d import ObjectRun


@dataclass(frozen=True, kw_only=True)
class Object(Prompted, Logged):
    """Distil a 3-D object from a prompt into OUT: a page, turntable, depth, normals, mesh. Resumes after a kill."""

    method: str | None = None
    """mean-shift (the default), msd (the default with the paper's preset), msd-published, sds, vsd, sdi, ..."""
    preset: Literal["cpu", "paper"] = "cpu"
    """A small volume for the embedded prior, or the paper's."""
    steps: int | None = None
    """Optimiser steps; 250 by default, 10 000 with the paper's preset."""
    views: int | None = None
    """Rendered views per step."""
    sampler_steps: int | None = None
    """Sampler steps per draw."""
    refresh: int | None = None
    """Steps that use one estimate and its cameras."""
    lr: float | None = None
    """Learning rate."""
    size: int | None = None
    """Side of a render in pixels; the prior's own by default, 512 with the paper's preset."""
    low: tuple[int, int] | None = None
    """Initial render size and the step at which it ends: --low 64 5000 renders 64 x 64 for the first 5000 steps."""
    perp_neg: bool = False
    """Use Perp-Neg between the names of the views."""
    seed: int = 0
    """Seed of all randomness."""


@dataclass(frozen=True, kw_only=True)
class Export:
    """Extract the meshes of a finished or running 3-D run again: mesh.glb, mesh.obj and mesh.ply in its folder."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    resolution: int = 128
    """Grid cells per side for marching cubes."""
    threshold: float | None = None
    """Density at the surface; suggested from the field by default."""
    texture: int = 1024
    """Side of the texture in texels; 0: vertex colours."""


def method_of(command: Object) -> str:
    """The name of the method, chosen or default."""
    return command.method or ("msd" if command.preset == "paper" else "mean-shift")


def object_run(command: Object) -> tuple[ObjectRun, Path]:
    """Return the run that the options describe, and its folder.

    Raises:
        InvalidInput: an unknown method.
    """
    from modeseek.distillation.recipes import get_recipe
    from modeseek.distillation.recommend import PAPER_VIEW_RECIPES, VIEW_RECIPES
    from modeseek.tasks.text_to_3d import ObjectRun

    names = ("steps", "guidance", "sampler_steps", "refresh", "lr")
    recipes = PAPER_VIEW_RECIPES if command.preset == "paper" else VIEW_RECIPES
    recipe = get_recipe(method_of(command), recipes=recipes, **{name: getattr(command, name) for name in names})
    chosen: dict[str, Any] = {"prompt": command.prompt, "negative": command.negative, "prior": prior_choice(command), "recipe": recipe}
    chosen |= {"preset": command.preset, "views": command.views, "perp_neg": command.perp_neg, "seed": command.seed}
    chosen |= {"size": command.size, "low": command.low}
    return ObjectRun(**chosen), run_folder(command.out, "3d", command.prompt, method_of(command))


def object_3d(command: Object) -> None:
    """Run `modeseek 3d`."""
    from modeseek.scaling.ranks import process_group
    from modeseek.tasks.text_to_3d import distill_object

    run, out = object_run(command)
    with process_group(command.device) as ranks:
        steps = distill_object(run, out, ranks=ranks, command=command_line("3d", command))
        follow(command, method_of(command), steps, out, total=run.recipe.steps, calls="denoiser calls per view", shown=ranks.is_main)
    if ranks.is_main:
        made = sorted(path for path in out.iterdir() if path.suffix in (".gif", ".glb", ".html", ".json", ".png"))
        report_files(made, json_lines=command.json)


def export(command: Export) -> None:
    """Run `modeseek export`."""
    from modeseek.core.errors import InvalidInput
    from modeseek.tasks.text_to_3d import export_mesh, reopened

    _, nerf = reopened(command.run)
    texture = command.texture or None
    found = export_mesh(nerf, command.run, resolution=command.resolution, threshold=command.threshold, texture=texture)
    if found["mesh"] is None:
        raise InvalidInput(f"{command.run} has no mesh: {found['why']}")
    print(*sorted(str(path) for path in command.run.glob("mesh.*")), sep="\n")
