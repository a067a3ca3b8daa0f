"""Figure 2: one prompt as an image (top row) and the fractal with guidance at scale 4 (bottom row): DDIM, SDS, VSD, SDI and MSD.

The images are those of Table 4, at published settings and, for MSD with a wide kernel, at equal denoiser calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from modeseek.plots import PointsPanel, save_grid
from modeseek.plots.images import save_sheet
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.image_cells import SampledImages, prompts_of, shown
from modeseek.reproduction.image_methods import WIDE, at_equal_calls, published
from modeseek.reproduction.paper.table1 import COLUMNS, NOTES
from modeseek.reproduction.paper.table4 import BUDGET, sizes
from modeseek.reproduction.plane import DDIM, MSD_ADAPTIVE, MSD_PUBLISHED, SampleCell, density, sdi, sds, vsd
from modeseek.reproduction.tables import label_of, write_results
from modeseek.sweeps.cells import Cell, Result

TITLES = ("DDIM", "SDS", "VSD", "SDI", "MSD, as published", "MSD, wide kernel")
SHOWN = 1  # which of the prompts


def cells(settings: Settings) -> list[Cell]:
    return [*points(settings), *images(settings)]


def images(settings: Settings) -> list[Cell]:
    """The cells of Table 4 in the top row, in the order of the titles."""
    seeds, many, steps = sizes(settings)
    sample = SampledImages(prior=settings.prior, prompts=prompts_of(settings.prior.name), seeds=many, first=1000 * settings.seed)
    budget = BUDGET if steps is None else steps
    wide = [
        cell for cell in at_equal_calls(settings.prior, seeds, settings.seed, budget, steps=steps) if cell.row == f"{WIDE}, equal calls"
    ]
    return [sample, *published(settings.prior, seeds, settings.seed, steps=steps), *wide]


def points(settings: Settings) -> list[Cell]:
    """The cells of Table 1 in the bottom row."""
    return [
        SampleCell(density="fractal", denoiser="learned", guidance="cfg", method=m, points=settings.side, seed=settings.seed)
        for m in (DDIM, sds(), vsd(), sdi(), MSD_PUBLISHED, MSD_ADAPTIVE)
    ]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    below, above = results[: len(TITLES)], results[len(TITLES) :]
    distribution = density("fractal")
    panels = [PointsPanel(label_of(result.row), result.arrays["points"], distribution) for result in below]
    save_grid(folder / "fig2.png", [panels], width=2.4)
    count = len(prompts_of(settings.prior.name))
    chosen = [result.arrays["images"].unflatten(0, (count, -1))[SHOWN, 0] for result in above]
    save_sheet(folder / "fig2-top.png", [shown(torch.stack(chosen))], columns_named=TITLES, width=2.4)
    config = {"seed": settings.seed, "quick": settings.quick}
    write_results(folder, "fig2", rows=[r.row for r in below], config=config, columns=COLUMNS, notes=NOTES)


EXPERIMENT = Experiment(name="fig2", summary="one prompt, and the fractal with guidance (Figure 2)", cells=cells, finish=finish)
