"""Figure 8: more pictures of every method, two seeds of each prompt, from the cells of Table 4."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from modeseek.experiments.base import Experiment, Settings
from modeseek.experiments.cells import Cell, Result
from modeseek.experiments.pictures import prompts_of, shown
from modeseek.experiments.table4 import painted, sets
from modeseek.experiments.tables import write_results
from modeseek.plots.pictures import save_sheet


def cells(settings: Settings) -> list[Cell]:
    return [*sets(settings), *painted(settings)]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    prompts = prompts_of(settings.prior.name)
    rows = []
    for result in results[1:]:
        pictures = shown(result.arrays["pictures"]).unflatten(0, (len(prompts), -1))[:, :2]
        rows.append(torch.cat(list(pictures)))
    names = [f"{result.row['method']}\n{result.row['row']}" for result in results[1:]]
    save_sheet(folder / "fig8.png", rows, rows_named=names, width=0.8)
    config = {"seed": settings.seed, "quick": settings.quick, "prior": settings.prior.name}
    write_results(folder, "fig8", rows=[result.row for result in results[1:]], config=config, columns=[], notes="Pictures: fig8.png.")


EXPERIMENT = Experiment(name="fig8", summary="more pictures of every method (Figure 8)", cells=cells, finish=finish)
