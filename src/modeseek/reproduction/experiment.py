"""What an experiment is: independent cells, and what to write once they are done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modeseek.reproduction.cells import Cell, Result, check_folder, load, run_cells
from modeseek.tasks.text_to_image import PriorChoice


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How an experiment is run; other settings write to another folder and never over each other.

    Args:
        quick: fewer points and draws through the same code.
        seed: of start noise, draws and training.
        prior: the model of the experiments on images.
        images: of each prompt, in every row of Table 4 and the figures made of its cells; in search4, fig9 and table3d, at most 2.
    """

    quick: bool = False
    seed: int = 0
    images: int = 4
    prior: PriorChoice = field(default_factory=PriorChoice)

    @property
    def suffix(self) -> str:
        """Of the folder's name."""
        model = "" if self.prior.name == "solids" else "-" + "".join(c if c.isalnum() else "-" for c in Path(self.prior.name).name)
        model += f"-{self.images}-a-prompt" if self.images != 4 else ""
        return model + ("-quick" if self.quick else "") + (f"-seed{self.seed}" if self.seed else "")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table or figure of the paper, or one of ours.

    Args:
        name: on the command line.
        summary: one line for people.
        cells: settings -> the cells, in the order of the table.
        finish: (folder, settings, cells, results) -> written files beside `cells/`.
    """

    name: str
    summary: str
    cells: Callable[[Settings], Sequence[Cell]]
    finish: Callable[[Path, Settings, Sequence[Cell], Sequence[Result]], None]

    def run(self, out: Path, settings: Settings, *, workers: int = 1) -> Iterator[tuple[Cell, int, int]]:
        """Run the unfinished cells into `out/cells`, then write tables and figures into `out/<name>`.

        Experiments that share a cell share its result. Yields (cell, number done, number of cells).

        Raises:
            OutputError: the folder cannot be written, or a file in it is broken.
        """
        check_folder(out)
        cells = list({repr(cell): cell for cell in self.cells(settings)}.values())
        for done, cell in enumerate(run_cells(cells, out, workers=workers), start=1):
            yield cell, done, len(cells)
        results = [result for cell in cells if (result := load(cell, out)) is not None]
        assert len(results) == len(cells)
        self.finish(self.folder(out, settings), settings, cells, results)

    def folder(self, out: Path, settings: Settings) -> Path:
        """Where the tables and figures go."""
        return out / (self.name + settings.suffix)
