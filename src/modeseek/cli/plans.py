"""`modeseek plan`: estimate the cost of a run before starting it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from modeseek.cli.images import Image, image_run
from modeseek.cli.objects import Object, object_run


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Measure three steps of a run and print its denoiser calls, time and memory, and the options that reduce them. Writes no files."""

    run: tyro.conf.OmitSubcommandPrefixes[Annotated[Image, tyro.conf.subcommand("image")] | Annotated[Object, tyro.conf.subcommand("3d")]]
    """The command to plan, with its options."""


def show_plan(command: PlanOptions) -> None:
    """Run `modeseek plan`."""
    from modeseek.sweeps.plan import plan

    run, _ = image_run(command.run) if isinstance(command.run, Image) else object_run(command.run)
    print(plan(run))
