"""The demonstration: fractal and pinwheel rows with the learned denoiser, and the pinwheel's row of Figure 3."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeseek.plots import save_grid
from modeseek.reproduction.estimator_cells import LandscapeCell
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.paper.fig3 import panels
from modeseek.reproduction.paper.table1 import COLUMNS, NOTES, save_sample_rows
from modeseek.reproduction.plane import DDIM, MSD_ADAPTIVE, MSD_PUBLISHED, DensityName, SampleCell, sdi, sds
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result

METHODS = [sds(), sdi(), MSD_PUBLISHED, MSD_ADAPTIVE]
DENSITIES: tuple[DensityName, ...] = ("pinwheel", "fractal")


def cells(settings: Settings) -> list[Cell]:
    side, fine, estimates = (12, 24, 2) if settings.quick else (32, 48, 4)
    found: list[Cell] = [
        SampleCell(density=d, denoiser="learned", method=m, points=side, seed=settings.seed) for d in DENSITIES for m in (DDIM, *METHODS)
    ]
    landscapes = [
        LandscapeCell(density="pinwheel", denoiser="learned", method=m, points=fine, estimates=estimates, seed=settings.seed)
        for m in METHODS
    ]
    return [*found, *landscapes]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    samples = [r for r in results if "points" in r.arrays]
    for distribution in DENSITIES:
        save_sample_rows(folder / f"{distribution}.png", distribution, samples)
    by_method: list[Result] = []
    for method in METHODS:
        by_method += [
            r for r in results if r.row["density"] == "pinwheel" and r.row["row"] == method.row and r.row["method"] == method.name
        ]
    rows, labels = panels(by_method)
    save_grid(folder / "landscapes.png", rows, labels=labels, width=2.0)
    config = {"seed": settings.seed, "quick": settings.quick}
    write_results(folder, "demo", rows=[r.row for r in samples], config=config, columns=COLUMNS, notes=NOTES)


EXPERIMENT = Experiment(name="demo", summary="fractal and pinwheel in a minute or two", cells=cells, finish=finish)
