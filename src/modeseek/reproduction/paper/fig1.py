"""Figure 1: fractal, one class, no guidance: true samples, DDIM, SDS and MSD (as published, and with the adaptive bandwidth)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from modeseek.plots import Panel, PointsPanel, save_grid
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.paper.table1 import COLUMNS, NOTES
from modeseek.reproduction.plane import DDIM, MSD_ADAPTIVE, MSD_PUBLISHED, SampleCell, density, sds
from modeseek.reproduction.tables import label_of, write_results
from modeseek.sweeps.cells import Cell, Result


def cells(settings: Settings) -> list[Cell]:
    methods = [DDIM, sds(), MSD_PUBLISHED, MSD_ADAPTIVE]
    return [SampleCell(density="fractal", denoiser="learned", method=m, points=settings.side, seed=settings.seed) for m in methods]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    distribution = density("fractal")
    count = len(results[0].arrays["points"])
    truth = distribution.sample(count, rng=torch.Generator().manual_seed(settings.seed)).float()
    panels: list[Panel] = [PointsPanel("truth", truth, distribution)]
    for result in results:
        panels.append(PointsPanel(label_of(result.row), result.arrays["points"], distribution))
    save_grid(folder / "fig1.png", [panels], width=2.6)
    config = {"seed": settings.seed, "quick": settings.quick}
    write_results(folder, "fig1", rows=[r.row for r in results], config=config, columns=COLUMNS, notes=NOTES)


EXPERIMENT = Experiment(name="fig1", summary="fractal without guidance (Figure 1)", cells=cells, finish=finish)
