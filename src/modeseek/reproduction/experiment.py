"""An experiment: independent cells, and the tables and figures that are written once all of them are finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modeseek.core.errors import InvalidInput
from modeseek.pages import write_experiment_page
from modeseek.sweeps.cells import AnyCell, Cell, Result, load
from modeseek.sweeps.runner import check_folder, run_cells
from modeseek.tasks.text_to_image import PriorChoice


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an experiment is run. Different settings write to different folders.

    Args:
        quick: fewer points and samples through the same code.
        seed: seed of start noise, samples and training.
        seeds: number of seeds, counted from `seed`, over which Tables 1 to 3 and the oracle study average, with standard errors.
        points: starting points along one side of the grid of Tables 1 and 2 and Figures 1 to 3; None: 64.
        prior: model of the experiments on images.
        images: number of images per prompt in every row of Table 4 and in the figures made of its cells; at most 2 in search4, fig9 and
            table3d.
    """

    quick: bool = False
    seed: int = 0
    seeds: int = 1
    points: int | None = None
    images: int = 4
    prior: PriorChoice = field(default_factory=PriorChoice)

    def __post_init__(self) -> None:
        if self.seeds < 1 or (self.points is not None and self.points < 8):
            raise InvalidInput(f"at least 1 seed and 8 points along a side are needed, got {self.seeds} and {self.points}")

    @property
    def all_seeds(self) -> range:
        """The seeds to average over."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def side(self) -> int:
        """Starting points along one side of the grid."""
        return 16 if self.quick else 64 if self.points is None else self.points

    @property
    def suffix(self) -> str:
        """Suffix of the folder's name, different for different settings."""
        model = "" if self.prior.name == "solids" else "-" + "".join(c if c.isalnum() else "-" for c in Path(self.prior.name).name)
        model += f"-{self.images}-a-prompt" if self.images != 4 else ""
        model += f"-{self.seeds}-seeds" if self.seeds > 1 else ""
        model += f"-{self.points}-a-side" if self.points is not None else ""
        return model + ("-quick" if self.quick else "") + (f"-seed{self.seed}" if self.seed else "")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure of the paper, or a further study.

    Args:
        name: its name on the command line.
        summary: one line of description.
        cells: function of the settings that returns the cells in the order of the table.
        finish: function of (folder, settings, cells, results) that writes the tables and figures.
    """

    name: str
    summary: str
    cells: Callable[[Settings], Sequence[Cell]]
    finish: Callable[[Path, Settings, Sequence[Cell], Sequence[Result]], None]

    def run(self, out: Path, settings: Settings, *, workers: int = 1, retry_failed: bool = False) -> Iterator[tuple[AnyCell, int, int]]:
        """Run the unfinished cells into `out/cells`, then write tables and figures into `out/<name>`.

        Experiments that share a cell share its result. Yields (cell, number done, number of cells).

        Raises:
            OutputError: the folder cannot be written, or a file in it is damaged.
            CellsFailed: some cells failed; all others are on disk, and no table is written.
        """
        check_folder(out)
        cells = list({repr(cell): cell for cell in self.cells(settings)}.values())
        for done, cell in enumerate(run_cells(cells, out, workers=workers, retry_failed=retry_failed), start=1):
            yield cell, done, len(cells)  # type: ignore[misc]
        results = [result for cell in cells if (result := load(cell, out)) is not None]
        folder = self.folder(out, settings)
        self.finish(folder, settings, cells, results)
        if (folder / "results.json").is_file():
            write_experiment_page(folder)

    def folder(self, out: Path, settings: Settings) -> Path:
        """The folder of the tables and figures."""
        return out / (self.name + settings.suffix)
