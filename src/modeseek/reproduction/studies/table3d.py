"""Text to 3-D: every method's objects against the exact solids behind six held-out prompts, at equal denoiser calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modeseek.distillation.recommend import PAPER_VIEW_RECIPES, VIEW_RECIPES
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_methods import equal_calls, methods_of
from modeseek.reproduction.object_cells import DistilledObject, FittedObject, TrueObject, prompts_of
from modeseek.reproduction.object_scores import DIFFERENCE, paired, summary
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result
from modeseek.tasks.prior_choice import has_solids
from modeseek.tasks.text_to_3d import ObjectRun

FIT_STEPS = 500
COLUMNS = ["IoU", "PSNR", "SSIM", "Chamfer", "F-score", "mesh", "front", "back"]
NOTES = (
    "NeRFs of six captions held out of the prior's training, against the exact solids: IoU of silhouettes, PSNR and SSIM of images from "
    "24 cameras; Chamfer distance (the solids' box is 2.1 wide) and F-score (threshold 0.02 diameters) of the part of the mesh that is "
    "visible from around and above; `mesh` is the share of objects with a surface, without which the F-score is 0 and the Chamfer distance "
    "left out. `front` and `back`: for solids that have a front, shares of renders of either side that the classifier assigns to that "
    "side; an object with two fronts has a low `back`. Means over objects, +- bootstrap standard errors; `calls` are denoiser calls per "
    "view, and each step renders several views. The baselines' gradients are as published; the optimiser is tuned for 250 steps, where "
    "the paper has 10 000 at 0.01. The upper bound is the same NeRF fitted to true renders; the last row is the solid itself. "
    "`compare3d` compares methods under equal conditions, with tuning and scoring apart. `paired` has the differences of mean shift and of "
    "MSD by the reverse process to the published rows over the same prompts and seeds, with 95 % bootstrap intervals that resample whole "
    "prompts."
)
OWN = (("mean shift", "one call"), ("MSD", "reverse process, equal calls"))
OTHERS = "NeRFs of six prompts. They have no true object; CLIP-SIM of turntables is measured where CLIP is on disk."


def sizes(settings: Settings) -> tuple[int, int, int | None]:
    """Prompts, seeds, optimiser steps (None: the recipes')."""
    return (1, 1, 30) if settings.quick else (6, min(settings.images, 2), None)


def cells(settings: Settings) -> list[Cell]:
    count, seeds, steps = sizes(settings)
    prompts = prompts_of(settings.prior.name)[:count]
    places = [(prompt, settings.seed * 1000 + k) for k in range(seeds) for prompt in prompts]
    rows = [(name, method, "as published, equal calls") for name, method in methods_of(settings.prior)]
    rows += [(name, *own) for name, own in zip(("mean-shift", "msd"), OWN, strict=True)]
    found: list[Cell] = []
    recipes = VIEW_RECIPES if _preset(settings) == "cpu" else PAPER_VIEW_RECIPES
    for name, method, row in rows:
        recipe = recipes[name] if steps is None else replace(recipes[name], steps=steps)
        recipe = equal_calls(recipe, recipe.steps)  # one call per step and view
        for prompt, seed in places:
            run = ObjectRun(prompt=prompt, prior=settings.prior, recipe=recipe, preset=_preset(settings), seed=seed)
            found.append(DistilledObject(spec=run, method=method, row=row))
    if has_solids(settings.prior.name):
        found += [FittedObject(prompt=prompt, steps=steps or FIT_STEPS, seed=seed) for prompt, seed in places]
        found += [TrueObject(prompt=prompt) for prompt in prompts]
    return found


def _preset(settings: Settings) -> Any:
    return "cpu" if settings.quick or has_solids(settings.prior.name) else "paper"


def by_method(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    """Results of each (method, row), in the order of the cells."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.row["method"], result.row["row"]), []).append(result)
    return found


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    count, seeds, _ = sizes(settings)
    prompts = prompts_of(settings.prior.name)[:count]
    groups = by_method(results)
    rows = [summary(group) for group in groups.values()]
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name, "prompts": list(prompts), "seeds": seeds}
    solids = has_solids(settings.prior.name)
    columns, notes = (COLUMNS, NOTES) if solids else (["CLIP-SIM"], OTHERS)
    write_results(folder, "table3d", rows=rows, config=config, columns=columns, notes=notes)
    if solids:
        published = [group for (_, row), group in groups.items() if row.startswith("as published")]
        differences = [row for own in OWN for base in published for row in paired(groups[own], base)]
        write_results(folder / "paired", "table3d, paired", rows=differences, config=config, columns=DIFFERENCE, notes=notes)


EXPERIMENT = Experiment(name="table3d", summary="text to 3-D against exact solids, every method", cells=cells, finish=finish)
