"""Table 3: efficiency of single-draw gradient estimates, three densities, {ideal, learned}, in both readings of Eq. 17."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from modeseek.reproduction.estimator_cells import EfficiencyCell
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.plane import MSD_EXACT, MSD_PROXIMAL, MSD_PUBLISHED, DenoiserName, DensityName, sdi, sds, vsd
from modeseek.reproduction.tables import averaged, write_results
from modeseek.sweeps.cells import Cell, Result

NOTES = (
    "Natural logarithms of efficiency, in brackets the paper's. `log_efficiency` measures against the estimator's own mean, so only "
    "variance counts: a deterministic estimator has `inf`, however wrong it is. `log_efficiency_oracle` measures against the true mean "
    "shift after the best common scaling, so bias counts. Taken at the middle of the schedules, one Monte-Carlo draw per estimate."
)


def cells(settings: Settings) -> list[Cell]:
    methods = [sds(samples=1), vsd(samples=1), sdi(), MSD_PUBLISHED, MSD_EXACT, MSD_PROXIMAL]
    points, estimates = (8, 64) if settings.quick else (12, 256)
    return [
        EfficiencyCell(density=d, denoiser=k, method=m, points=points, estimates=estimates, seed=seed)
        for seed in settings.all_seeds
        for d in get_args(DensityName)
        for k in get_args(DenoiserName)
        for m in methods
    ]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    config = {"seed": settings.seed, "seeds": settings.seeds, "quick": settings.quick, "progress": 0.5, "bandwidth": 0.16}
    columns = ["log_efficiency", "log_efficiency_oracle"]
    write_results(folder, "table3", rows=averaged([r.row for r in results]), config=config, columns=columns, notes=NOTES)


EXPERIMENT = Experiment(name="table3", summary="efficiency of the gradient estimates (Table 3)", cells=cells, finish=finish)
