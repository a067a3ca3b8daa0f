"""`modeseek plan`: estimate the cost of a run before starting it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from modeseek.cli.images import Image, image_run
from modeseek.cli.objects import Object, object_run
from modeseek.cli.sweeps import SweepOptions, set_threads, sweep_of


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Measure some steps and the results of a run, and print its denoiser calls, time and memory, and the options that reduce them.

    Of a sweep one cell of each method is measured, and unfinished cells are counted. Nothing is written into the output folder.
    """

    run: tyro.conf.OmitSubcommandPrefixes[
        Annotated[Image, tyro.conf.subcommand("image")]
        | Annotated[Object, tyro.conf.subcommand("3d")]
        | Annotated[SweepOptions, tyro.conf.subcommand("sweep")]
    ]
    """The command to plan, with its options."""


def show_plan(command: PlanOptions) -> None:
    """Run `modeseek plan`."""
    if isinstance(command.run, SweepOptions):
        return _show_sweep(command.run)
    from modeseek.sweeps.plan import plan

    run, _ = image_run(command.run) if isinstance(command.run, Image) else object_run(command.run)
    print(plan(run))
    return None


def _show_sweep(command: SweepOptions) -> None:
    """Print the plan of the unfinished cells, on as many workers and threads as the command states."""
    import os

    from modeseek.sweeps.cells import load
    from modeseek.sweeps.reading import read_shard
    from modeseek.sweeps.sweep_plan import plan_cells

    cells = sweep_of(command).cells()
    if command.shard is not None:
        number, count = read_shard(command.shard)
        cells = cells[number - 1 :: count]
    if command.workers > 1 or command.threads is not None:
        set_threads(command.threads or max(1, (os.cpu_count() or 1) // command.workers))
    print(plan_cells([cell for cell in cells if load(cell, command.out) is None], workers=command.workers))
