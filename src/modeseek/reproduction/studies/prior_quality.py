"""The figures of the embedded prior's model card: classifier on true images, on reconstructions and on samples of held-out prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.tables import write_results
from modeseek.reproduction.training.quality import PROMPTS, STEPS, measure
from modeseek.sweeps.cells import Cell, Result

COLUMNS = ["PSNR", "object", "colour", "base", "base colour", "background", "view", "all"]
NOTES = (
    f"{PROMPTS} captions held out of training, one image each. Shares of images on which the classifier sees what the caption says; `all` "
    "is everything named but the view; PSNR in decibels. The rows of true images and of their reconstructions are the ceiling."
)


@dataclass(frozen=True, kw_only=True)
class QualityCell:
    """All rows, since they share the true images.

    Args:
        count: prompts.
        scales: of guidance.
    """

    count: int
    scales: tuple[float, ...]

    @property
    def title(self) -> str:
        return f"solids {self.count} prompts"

    def run(self) -> Result:
        return Result({"found": dict(measure(count=self.count, scales=self.scales))})


def cells(settings: Settings) -> list[Cell]:
    return [QualityCell(count=12, scales=(3.0,)) if settings.quick else QualityCell(count=PROMPTS, scales=(1.0, 2.0, 3.0, 5.0))]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    found = results[0].row["found"]
    rows = [
        {"density": "solids", "denoiser": "learned", "guidance": "none", "method": what, "metrics": metrics, "calls": 0.0, "seconds": 0.0}
        | ({"calls": float(STEPS)} if what.startswith("samples") else {})
        for what, metrics in found.items()
    ]
    config = {"seed": settings.seed, "quick": settings.quick, "prior": "solids"}
    write_results(folder, "solids", rows=rows, config=config, columns=COLUMNS, notes=NOTES)


EXPERIMENT = Experiment(name="prior", summary="figures of the embedded prior's model card (ours)", cells=cells, finish=finish)
