"""`modeseek run`: reproduce the paper's tables and figures, and run further studies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from modeseek.cli.options import Model, Reported, prior_choice, progress_bar
from modeseek.cli.progress import report_files


@dataclass(frozen=True, kw_only=True)
class Run(Model, Reported):
    """Run experiments and write tables and figures.

    From the paper: table1 table2 table3 table4 fig1 fig2 fig3 fig4 fig5 fig6 fig8 fig9. Further studies, in the plane: oracle zoo
    calibration samplers levy frontier search. On images: prior lab drift repair edit search4. On objects: table3d compare3d. For a first
    look: demo.

    Results are cached in OUT/cells, so an interrupted run resumes where it stopped. Tables and figures are written to
    OUT/NAME (OUT/NAME-quick with --quick, with -seedN for another seed).
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """Experiments to run, in this order."""
    out: Path = Path("runs")
    """Folder for results."""
    quick: bool = False
    """Use fewer points and samples; takes minutes."""
    workers: int = 1
    """Worker processes; each gets an equal part of the cores."""
    retry_failed: bool = False
    """Run cells again that failed in an earlier run."""
    seed: int = 0
    """Seed of all randomness."""
    seeds: int = 1
    """Seeds over which table1, table2, table3, oracle, calibration, samplers and levy average, with standard errors."""
    points: int | None = None
    """Starting points along one side of the grid in table1, table2, fig1, fig2 and fig3; 64 by default."""
    images: int = 4
    """Images per prompt in every row of Table 4, from 1 to 32; in search4, fig9 and table3d at most 2."""


def run(command: Run) -> None:
    """Run `modeseek run`."""
    from modeseek.core.errors import InvalidInput
    from modeseek.reproduction import EXPERIMENTS, Settings

    unknown = [name for name in command.names if name not in EXPERIMENTS]
    if unknown or not command.names:
        listing = "; ".join(f"{name}: {experiment.summary}" for name, experiment in EXPERIMENTS.items())
        raise InvalidInput(f"no experiment is called {', '.join(unknown) or '(nothing)'}. Available: {listing}")
    if not 1 <= command.images <= 32:
        raise InvalidInput(f"Table 4 takes 1 to 32 images per prompt, got --images {command.images}")
    settings = Settings(
        quick=command.quick,
        seed=command.seed,
        seeds=command.seeds,
        points=command.points,
        images=command.images,
        prior=prior_choice(command),
    )
    with progress_bar(json_lines=command.json) as progress:
        for name in command.names:
            task = progress.add_task(name, total=None)
            for cell, done, total in EXPERIMENTS[name].run(
                command.out, settings, workers=command.workers, retry_failed=command.retry_failed
            ):
                progress.update(task, completed=done, total=total, description=f"{name}: {cell.title}")
            progress.update(task, description=name)
    folders = [EXPERIMENTS[name].folder(command.out, settings) for name in command.names]
    if command.json:
        report_files([path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()], json_lines=True)
        return
    for name, folder in zip(command.names, folders, strict=True):
        print(f"{name}: {folder / 'index.html'}", *(str(p) for p in sorted(folder.glob("*.png"))), sep="\n  ")
