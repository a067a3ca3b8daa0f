"""Figure 2, bottom row: fractal with classifier-free guidance at scale 4: DDIM, SDS, VSD, SDI and MSD."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeseek.experiments.base import Experiment, Settings
from modeseek.experiments.cells import Cell, Result
from modeseek.experiments.laboratory import DDIM, MSD_OURS, MSD_PUBLISHED, SampleCell, density, sdi, sds, vsd
from modeseek.experiments.table1 import COLUMNS, NOTES
from modeseek.experiments.tables import write_results
from modeseek.plots import PointsPanel, save_grid


def cells(settings: Settings) -> list[Cell]:
    side = 16 if settings.quick else 64
    return [
        SampleCell(density="fractal", denoiser="learned", guidance="cfg", method=m, points=side, seed=settings.seed)
        for m in (DDIM, sds(), vsd(), sdi(), MSD_PUBLISHED, MSD_OURS)
    ]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    titles = ("DDIM", "SDS", "VSD", "SDI", "MSD, as published", "MSD, ours")
    law = density("fractal")
    panels = [PointsPanel(title, result.arrays["points"], law) for title, result in zip(titles, results, strict=True)]
    save_grid(folder / "fig2.png", [panels], width=2.4)
    config = {"seed": settings.seed, "quick": settings.quick}
    write_results(folder, "fig2", rows=[r.row for r in results], config=config, columns=COLUMNS, notes=NOTES)


EXPERIMENT = Experiment(name="fig2", summary="fractal with guidance (Figure 2, bottom row)", cells=cells, finish=finish)
