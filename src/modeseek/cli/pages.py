"""`modeseek page` and `modeseek compare`: write the page of a run, or one page that compares several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class PageCommand:
    """Write index.html into the folder of each run, table or figure. Every command does this at its end; `page` rewrites the pages."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders that hold run.json or results.json."""


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Show 2 to 12 runs next to each other on one page: one slider through all frames, one camera for all meshes, curves in one chart."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of the runs, in the order of the columns."""
    out: Path = Path("runs/compare.html")
    """File of the page, or a folder for its index.html."""


def page(command: PageCommand) -> None:
    """Run `modeseek page`."""
    from modeseek.core.errors import InvalidInput
    from modeseek.pages import write_experiment_page, write_run_page

    if not command.folders:
        raise InvalidInput("no folder given: name the folders of runs, such as runs/image/a-red-sphere-msd")
    for folder in command.folders:
        print(write_experiment_page(folder) if (folder / "results.json").is_file() else write_run_page(folder))


def compare(command: CompareCommand) -> None:
    """Run `modeseek compare`."""
    from modeseek.pages import write_comparison

    print(write_comparison(command.runs, command.out))
