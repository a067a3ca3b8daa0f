"""Figure 3: pinwheel and spiral, ideal and learned denoisers: each method's samples and the loss its gradient implies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeseek.plots import Panel, PointsPanel, PotentialPanel, save_grid
from modeseek.reproduction.estimator_cells import LandscapeCell
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.plane import MSD_ADAPTIVE, MSD_PUBLISHED, DensityName, Method, SampleCell, density, sdi, sds, vsd
from modeseek.reproduction.published_numbers import PINWHEEL, SPIRAL
from modeseek.reproduction.tables import label_of, write_results
from modeseek.sweeps.cells import Cell, Result

METHODS: list[Method] = [sds(), vsd(), sdi(), MSD_PUBLISHED, MSD_ADAPTIVE]
NOTES = (
    "Samples: the metrics of Table 2. Landscapes: `curl` is the share of the squared field that no potential explains (0 for a "
    "true gradient), at the middle of the schedules."
)


def cells(settings: Settings, columns: Sequence[tuple[str, str, str]] = (*PINWHEEL, *SPIRAL)) -> list[Cell]:
    side, estimates = settings.side, 4 if settings.quick else 16
    found: list[Cell] = []
    for d, k, _ in columns:
        for m in METHODS:
            found.append(SampleCell(density=d, denoiser=k, method=m, points=side, seed=settings.seed))  # type: ignore[arg-type]
            found.append(
                LandscapeCell(density=d, denoiser=k, method=m, points=side, estimates=estimates, seed=settings.seed)  # type: ignore[arg-type]
            )
    return found


def panels(results: Sequence[Result]) -> tuple[list[list[Panel]], list[str]]:
    """A row of panels for each density and denoiser, samples next to landscapes; and the rows' labels."""
    rows: dict[str, list[Panel]] = {}
    for result in results:
        row = result.row
        distribution: DensityName = row["density"]
        name = label_of(row)
        line = rows.setdefault(f"{distribution}, {row['denoiser']}", [])
        if "potential" in result.arrays:
            line.append(PotentialPanel(f"{name}: implied loss", result.arrays["potential"]))
        else:
            line.append(PointsPanel(name, result.arrays["points"], density(distribution)))
    return list(rows.values()), list(rows)


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    rows, labels = panels(results)
    save_grid(folder / "fig3.png", rows, labels=labels, width=1.8)
    one = labels.index("pinwheel, learned")
    save_grid(folder / "fig3-pinwheel.png", [rows[one][0::2], rows[one][1::2]], labels=["samples", "implied loss"], width=2.0)
    config = {"seed": settings.seed, "quick": settings.quick}
    columns = ["nll", "precision", "recall", "coverage", "curl"]
    write_results(folder, "fig3", rows=[r.row for r in results], config=config, columns=columns, notes=NOTES)


EXPERIMENT = Experiment(name="fig3", summary="pinwheel and spiral: samples and landscapes (Figure 3)", cells=cells, finish=finish)
