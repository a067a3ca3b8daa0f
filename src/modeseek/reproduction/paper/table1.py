"""Table 1: class-conditional distillation on the fractal, {ideal, learned, learned + CFG, learned + autoguidance}.

Every method at default settings and at the best of its own search; MSD as published, with other samplers, and with the adaptive bandwidth.
With the ideal denoiser all methods take a few steps of plain gradient descent, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeseek.plots import PointsPanel, save_grid
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.plane import METHODS, DensityName, SampleCell, density
from modeseek.reproduction.published_numbers import FRACTAL, Column
from modeseek.reproduction.tables import averaged, label_of, write_results
from modeseek.sweeps.cells import Cell, Result

COLUMNS = ["nll", "precision", "recall", "coverage", "outliers", "mmd_1e4", "modes"]
NOTES = (
    "Measured, and in brackets the paper's number; ± is the standard error over seeds of the start noise and of the methods' randomness "
    "(the networks, the ideal denoiser's data and the true samples are the same for all seeds). NLL in nats under the true density; "
    "precision, recall and coverage of 4000 points (all, where there are fewer) against as many true samples, k = 3, averaged over 5 true "
    "sets; outliers beyond max log p - 4.494; unbiased squared MMD x 1e4 with the kernel of `modeseek.metrics.mmd` (the paper states "
    "none); modes of the density smoothed by 0.02 with a point within 0.02; denoiser calls per point."
)


def sample_cells(columns: Sequence[Column], settings: Settings) -> list[Cell]:
    """One cell for each column, method and seed."""
    return [
        SampleCell(density=d, denoiser=k, guidance=g, method=m, points=settings.side, seed=seed)  # type: ignore[arg-type]
        for seed in settings.all_seeds
        for d, k, g in columns
        for m in METHODS
    ]


def write_samples(name: str, folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    """The table, averaged over seeds, and one image per density with the first seed's points: a row of panels for each denoiser."""
    rows = averaged([result.row for result in results])
    results = results[: len(rows)]
    config = {"seed": settings.seed, "seeds": settings.seeds, "quick": settings.quick, "points": settings.side**2, "ideal_samples": 10_000}
    write_results(folder, name, rows=rows, config=config, columns=COLUMNS, notes=NOTES)
    for distribution in dict.fromkeys(row["density"] for row in rows):
        save_sample_rows(folder / f"{distribution}.png", distribution, results)


def save_sample_rows(path: Path, distribution: DensityName, results: Sequence[Result]) -> None:
    """Points of every method of one density, a row for each column of the table."""
    lines: dict[str, list[PointsPanel]] = {}
    for result in results:
        row = result.row
        if row["density"] == distribution:
            label = row["denoiser"] if row["guidance"] == "none" else f"{row['denoiser']} + {row['guidance']}"
            lines.setdefault(label, []).append(PointsPanel(label_of(row), result.arrays.get("points"), density(distribution)))
    save_grid(path, list(lines.values()), labels=list(lines), width=1.7)


def cells(settings: Settings) -> list[Cell]:
    return sample_cells(FRACTAL, settings)


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    write_samples("table1", folder, settings, cells, results)


EXPERIMENT = Experiment(name="table1", summary="fractal: every method and denoiser (Table 1)", cells=cells, finish=finish)
