"""The `modeseek` command: parse the arguments, call the library, show progress."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, Union

import tyro

from modeseek.cli.app import App, app
from modeseek.cli.doctor import Doctor, doctor
from modeseek.cli.editing import Edit, edit
from modeseek.cli.experiments import Run, run
from modeseek.cli.images import Image, Sample, image, sample
from modeseek.cli.objects import Export, Object, export, object_3d
from modeseek.cli.pages import CompareCommand, PageCommand, compare, page
from modeseek.cli.plans import PlanOptions, show_plan
from modeseek.cli.playground import Playground, playground
from modeseek.cli.progress import report_error
from modeseek.cli.sweeps import SweepOptions, sweep
from modeseek.cli.training import Train, train
from modeseek.core import interrupts
from modeseek.core.errors import InvalidInput, ModeseekError

COMMANDS: dict[str, tuple[type, Callable[[Any], int | None]]] = {
    "image": (Image, image),
    "sample": (Sample, sample),
    "3d": (Object, object_3d),
    "edit": (Edit, edit),
    "export": (Export, export),
    "run": (Run, run),
    "plan": (PlanOptions, show_plan),
    "sweep": (SweepOptions, sweep),
    "train": (Train, train),
    "page": (PageCommand, page),
    "compare": (CompareCommand, compare),
    "app": (App, app),
    "doctor": (Doctor, doctor),
    "playground": (Playground, playground),
}
"""Name -> (options, function); a function may return an exit status. To add a command, add a file and a line here."""

DISTRIBUTED = (Image, Object)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 success, 1 a user's error (one line on stderr), 130 Ctrl-C, 143 SIGTERM."""
    choices = tuple(Annotated[options, tyro.conf.subcommand(name)] for name, (options, _) in COMMANDS.items())
    command: Any = None
    try:
        with interrupts.terminable():
            command = tyro.cli(
                Union[choices],  # type: ignore[call-overload]  # noqa: UP007 - built at run time
                prog="modeseek",
                description="Gradients from diffusion models: mean-shift distillation and the other score-distillation methods.",
                args=arguments,
            )
            from modeseek.scaling.ranks import world_size

            if world_size() > 1 and not isinstance(command, DISTRIBUTED):
                raise InvalidInput("only `image` and `3d` run on several processes: start this command without torchrun")
            status = next(function for options, function in COMMANDS.values() if type(command) is options)(command)
            interrupts.leave_if_requested()
            return status or 0
    except ModeseekError as error:
        report_error(error, json_lines=getattr(command, "json", False))
        return 1
    except interrupts.Terminated:
        print("modeseek: stopped by SIGTERM; run the same command again to resume", file=sys.stderr)
        return interrupts.EXIT_STATUS
    except KeyboardInterrupt:
        print("modeseek: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
