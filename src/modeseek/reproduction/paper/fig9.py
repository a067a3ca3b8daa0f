"""Figure 9: the published recipe without the limited interval, without the noise scaling, and without both.

Algorithm 2 prints the noise scaling one level off from section 4.3; the last row is Algorithm 2 verbatim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from modeseek.distillation.recipes import RECIPES
from modeseek.plots.images import save_sheet
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import REFERENCE_SEED, DistilledImages, SampledImages, prompts_of, score_rows, shown
from modeseek.reproduction.paper.table4 import COLUMNS
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result
from modeseek.tasks.prior_choice import has_solids

EVERYWHERE = (999, 0)
NOTES = (
    "MSD as published, and with its two heuristics switched off one by one. Noise is scaled to the level of the state it pulls, as section "
    "4.3 has it in words; the last row scales it as Algorithm 2 is printed, to the level before."
)


def cells(settings: Settings) -> list[Cell]:
    base = RECIPES["msd-published"] if not settings.quick else replace(RECIPES["msd-published"], steps=40)
    recipes = {
        "as published": base,
        "without the limited interval": replace(base, interval=EVERYWHERE),
        "without noise scaling": replace(base, scaling="none"),
        "without both": replace(base, interval=EVERYWHERE, scaling="none"),
        "Algorithm 2, verbatim": replace(base, scaling="verbatim"),
    }
    seeds = 1 if settings.quick else min(2, settings.images)
    prompts = prompts_of(settings.prior.name)[: 2 * seeds]
    found: list[Cell] = [SampledImages(prior=settings.prior, prompts=prompts, seeds=16, first=REFERENCE_SEED)]
    for row, recipe in recipes.items():
        found.append(
            DistilledImages(prior=settings.prior, prompts=prompts, seeds=seeds, recipe=recipe, method="MSD", row=row, seed=settings.seed)
        )
    return found


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    prompts = cells[0].prompts  # type: ignore[attr-defined]
    rows = score_rows(results[1:], prompts, settings.prior, reference=results[0].arrays["images"])
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name, "prompts": list(prompts)}
    write_results(folder, "fig9", rows=rows, config=config, columns=COLUMNS[:4] if has_solids(settings.prior.name) else [], notes=NOTES)
    images = [shown(torch.as_tensor(result.arrays["images"])) for result in results[1:]]
    save_sheet(folder / "fig9.png", images, rows_named=[row["row"] for row in rows])


EXPERIMENT = Experiment(name="fig9", summary="the published recipe without its heuristics (Figure 9)", cells=cells, finish=finish)
