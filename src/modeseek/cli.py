"""The `modeseek` command: parse, call, show progress. Everything it does is one call of the library."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from modeseek.errors import InvalidInput, ModeseekError

if TYPE_CHECKING:
    from rich.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Run:
    """Run experiments: table1 table2 table3 fig1 fig2 fig3 oracle frontier search demo.

    Finished cells are kept in OUT/cells and not run again, so an interrupted run goes on where it stopped. Tables and pictures are in
    OUT/NAME (OUT/NAME-quick with --quick, with -seedN for another seed).
    """

    names: tyro.conf.Positional[tuple[str, ...]]
    """What to run, in this order."""
    out: Path = Path("runs")
    """Folder for results."""
    quick: bool = False
    """Fewer points and draws through the same code: minutes."""
    workers: int = 1
    """Processes side by side; each gets its share of the cores."""
    seed: int = 0
    """Seed of all randomness."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Rebuild an embedded network: fractal-a, fractal-a-weak, fractal-ab-weak, spiral or pinwheel. Resumes after a kill."""

    name: tyro.conf.Positional[str]
    """Which network."""
    out: Path = Path("runs/train")
    """Folder for the weights and the checkpoint."""
    iterations: int | None = None
    """Fewer or more iterations than the recipe's."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status: 0 done, 1 a user's error (one line on stderr), 130 interrupted."""
    command = tyro.cli(
        Annotated[Run, tyro.conf.subcommand("run")] | Annotated[Train, tyro.conf.subcommand("train")],  # type: ignore[arg-type]
        prog="modeseek",
        description="Gradients out of diffusion models: mean-shift distillation and its peers.",
        args=arguments,
    )
    try:
        run(command) if isinstance(command, Run) else train(command)
    except ModeseekError as error:
        print(f"modeseek: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("modeseek: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


def _progress() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}"), *columns)


def run(command: Run) -> None:
    """`modeseek run`."""
    from modeseek.experiments import EXPERIMENTS, Settings

    unknown = [name for name in command.names if name not in EXPERIMENTS]
    if unknown or not command.names:
        listing = "; ".join(f"{name}: {experiment.summary}" for name, experiment in EXPERIMENTS.items())
        raise InvalidInput(f"no experiment is called {', '.join(unknown) or '(nothing)'}. There are {listing}")
    settings = Settings(quick=command.quick, seed=command.seed)
    with _progress() as progress:
        for name in command.names:
            task = progress.add_task(name, total=None)
            for cell, done, total in EXPERIMENTS[name].run(command.out, settings, workers=command.workers):
                progress.update(task, completed=done, total=total, description=f"{name}: {cell.title}")
            progress.update(task, description=name)
    for name in command.names:
        folder = EXPERIMENTS[name].folder(command.out, settings)
        print(f"{name}: {folder / 'results.md'}", *(str(p) for p in sorted(folder.glob("*.png"))), sep="\n  ")


def train(command: Train) -> None:
    """`modeseek train`."""
    from dataclasses import replace

    from modeseek.priors import recipe, save_energy_net
    from modeseek.priors import train as train_network

    chosen = recipe(command.name)
    config = chosen.config if command.iterations is None else replace(chosen.config, iterations=command.iterations)
    path = command.out / f"{command.name}.safetensors"
    average = None
    with _progress() as progress:
        task = progress.add_task(command.name, total=config.iterations)
        for step in train_network(chosen.density(), config, checkpoint=command.out / f"{command.name}.checkpoint.safetensors"):
            progress.update(task, completed=step.iteration, description=f"{command.name}: loss {step.loss:.4f}")
            average = step.average
    assert average is not None
    save_energy_net(average, path, density=command.name, iterations=str(config.iterations), seed=str(config.seed))
    print(path)


if __name__ == "__main__":
    sys.exit(main())
