"""Figure 8: more images of every method, two seeds of each prompt, from the cells of Table 4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from modeseek.plots.images import save_sheet
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import prompts_of, shown
from modeseek.reproduction.paper.table4 import distilled_cells, sets
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result


def cells(settings: Settings) -> list[Cell]:
    return [*sets(settings), *distilled_cells(settings)]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    prompts = prompts_of(settings.prior.name)
    rows = []
    for result in results[1:]:
        images = shown(result.arrays["images"]).unflatten(0, (len(prompts), -1))[:, :2]
        rows.append(torch.cat(list(images)))
    names = [f"{result.row['method']}\n{result.row['row']}" for result in results[1:]]
    save_sheet(folder / "fig8.png", rows, rows_named=names, width=0.8)
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name}
    write_results(folder, "fig8", rows=[result.row for result in results[1:]], config=config, columns=[], notes="Images: fig8.png.")


EXPERIMENT = Experiment(name="fig8", summary="more images of every method (Figure 8)", cells=cells, finish=finish)
