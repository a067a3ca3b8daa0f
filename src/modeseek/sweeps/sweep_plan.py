"""Estimate the cost of a sweep: one cell of each method and prior is planned, and counted as often as it is still to be run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modeseek.core.errors import InvalidInput
from modeseek.sweeps.plan import Plan, duration, plan, size_of
from modeseek.sweeps.sweep import ImageCell, ObjectCell
from modeseek.sweeps.trial import Clock
from modeseek.sweeps.worker import opened
from modeseek.tasks.text_to_image import ImageRun


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """The cost of the unfinished cells of a sweep.

    Attributes:
        groups: name of the method, and of the prior where there are several; cells to run; the plan of one.
        workers: processes that divide the cells.
    """

    groups: tuple[tuple[str, int, Plan], ...]
    workers: int

    @property
    def seconds(self) -> float:
        """Seconds of the sweep: each worker loads each prior once and runs its part of the cells."""
        cells = sum(count * (each.seconds - each.load_seconds) for _, count, each in self.groups)
        return sum(each.load_seconds for _, _, each in self.groups) + cells / min(self.workers, self.count)

    @property
    def count(self) -> int:
        """Cells to run."""
        return sum(count for _, count, _ in self.groups)

    @property
    def memory(self) -> int:
        """Peak bytes of one worker."""
        return max(each.memory for _, _, each in self.groups)

    def __str__(self) -> str:
        lines = [f"{name:18s}{count} cells of {duration(each.seconds - each.load_seconds)}" for name, count, each in self.groups]
        workers = "one process" if self.workers == 1 else f"{self.workers} workers"
        lines += [f"time              {duration(self.seconds)} for {self.count} cells on {workers}"]
        every = "" if self.workers == 1 else f" per worker, {size_of(self.workers * self.memory)} in all"
        lines += [f"memory            {size_of(self.memory)}{every}"]
        return "\n".join(lines)


def plan_cells(cells: Sequence[ImageCell | ObjectCell], *, workers: int = 1, clock: Clock = time.perf_counter) -> SweepPlan:
    """Plan cells that are not finished.

    Args:
        cells: at least one; cells that differ in prompt and seed alone count as equally expensive.
        workers: processes that divide them.
        clock: as of `plan`.

    Raises:
        InvalidInput: no cells; and as the runs themselves.
    """
    if not cells:
        raise InvalidInput("no cell is left to run")
    several = len({cell.prior for cell in cells}) > 1
    groups: dict[tuple[Any, str], list[ImageCell | ObjectCell]] = {}
    for cell in cells:
        groups.setdefault((cell.prior, cell.method.name), []).append(cell)
    found = []
    for (choice, name), members in groups.items():
        before = opened.cache_info().misses
        begun = clock()
        prior = opened(choice)
        loaded = clock() - begun if opened.cache_info().misses > before else 0.0
        measured = plan(_run_of(members[0]), prior=prior, load_seconds=loaded, results=isinstance(members[0], ObjectCell), clock=clock)
        found.append((f"{name}, {choice.name}" if several else name, len(members), measured))
    return SweepPlan(groups=tuple(found), workers=workers)


def _run_of(cell: ImageCell | ObjectCell) -> Any:
    """The run that costs what a cell costs."""
    if isinstance(cell, ObjectCell):
        return cell.spec
    common: dict[str, Any] = {"prompt": cell.prompt, "negative": cell.negative, "prior": cell.prior, "seed": cell.seed}
    return ImageRun(recipe=cell.method.recipe, seeds=(cell.seed,), representation=cell.representation, **common)
