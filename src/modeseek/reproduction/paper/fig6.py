"""Figure 6: objects of every method from four sides, one column per prompt, from the cells of table3d."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from modeseek.plots.images import save_sheet, tiled
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import shown
from modeseek.reproduction.object_cells import faces, prompts_of
from modeseek.reproduction.object_scores import summary
from modeseek.reproduction.studies.table3d import by_method, sizes
from modeseek.reproduction.studies.table3d import cells as table3d_cells
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result

NOTES = "Images: fig6.png; front and left, back and right of the first seed of each prompt."


def cells(settings: Settings) -> list[Cell]:
    return table3d_cells(settings)


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    prompts = prompts_of(settings.prior.name)[: sizes(settings)[0]]
    groups = by_method(results)
    rows = []
    for group in groups.values():
        first = {result.row["prompt"]: result for result in reversed(group)}
        rows.append(torch.stack([tiled(shown(faces(first[prompt])), 2) for prompt in prompts]))
    names = [f"{method}\n{row}" for method, row in groups]
    titles = [prompt.split(",")[0][:34].replace(" on ", "\non ") for prompt in prompts]
    save_sheet(folder / "fig6.png", rows, rows_named=names, columns_named=titles, width=1.6)
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name, "prompts": list(prompts)}
    write_results(folder, "fig6", rows=[summary(group) for group in groups.values()], config=config, columns=[], notes=NOTES)


EXPERIMENT = Experiment(name="fig6", summary="objects of every method from four sides (Figure 6)", cells=cells, finish=finish)
