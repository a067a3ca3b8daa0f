"""Table 2: unconditional distillation on the spiral and the pinwheel, ideal and learned denoisers; the rows of Table 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.paper.table1 import sample_cells, write_samples
from modeseek.reproduction.published_numbers import PINWHEEL, SPIRAL
from modeseek.sweeps.cells import Cell, Result


def cells(settings: Settings) -> list[Cell]:
    return sample_cells(SPIRAL + PINWHEEL, settings)


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    write_samples("table2", folder, settings, cells, results)


EXPERIMENT = Experiment(name="table2", summary="spiral and pinwheel: every method (Table 2)", cells=cells, finish=finish)
