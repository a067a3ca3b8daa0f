"""`modeseek sweep`: prompts x methods x seeds on one machine or many."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from modeseek.cli.options import Model, prior_choice, progress_bar

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from modeseek.sweeps.sweep import Sweep


@dataclass(frozen=True, kw_only=True)
class SweepOptions(Model):
    """Distil every prompt with every method and every seed into OUT: a table, and a page with a grid of the results.

    SOURCE is a text file with one prompt per line, or a YAML file that defines the sweep. Finished cells are not run again, so the
    same command resumes, and a command with more prompts, methods or seeds runs only the new cells. Several commands may share a folder.
    """

    source: tyro.conf.Positional[Path]
    """prompts.txt, or sweep.yaml."""
    out: Path
    """Output folder, on a disk that all machines can access."""
    task: Literal["image", "3d"] = "image"
    """Images, or 3-D objects."""
    methods: str = "msd"
    """Methods, separated by commas."""
    seeds: str = "0"
    """Seeds and ranges of seeds, such as 0-7,12."""
    negative: str = ""
    """Negative prompt."""
    representation: Literal["mlp", "pixels", "latents"] = "mlp"
    """Representation of images."""
    steps: int | None = None
    """Optimiser steps; the method's own by default."""
    guidance: float | None = None
    """Guidance scale s of D_u + s (D_c - D_u); the prior's own by default."""
    refresh: int | None = None
    """Steps that use one estimate."""
    samples: int | None = None
    """Monte Carlo samples per estimate."""
    sampler_steps: int | None = None
    """Sampler steps per draw; inversion steps of SDI."""
    lr: float | None = None
    """Learning rate."""
    preset: Literal["cpu", "paper"] = "cpu"
    """For 3d: a small volume for the embedded prior, or the paper's."""
    views: int | None = None
    """For 3d: rendered views per step."""
    size: int | None = None
    """For 3d: side of a render in pixels."""
    perp_neg: bool = False
    """For 3d: use Perp-Neg between the names of the views."""
    image_size: str | None = None
    """Side of the prior's images in pixels, or HEIGHTxWIDTH; the model's own by default."""
    executor: Literal["local", "ray", "slurm"] = "local"
    """Where cells run: processes of this machine, a Ray cluster, or SLURM jobs."""
    workers: int = 1
    """Local worker processes; SLURM: jobs."""
    threads: int | None = None
    """Threads of each worker; the cores divided by the workers by default. Results are equal bit for bit at equal threads."""
    address: str | None = None
    """Ray: address of the cluster (auto, HOST:PORT or ray://HOST:PORT); Ray is started on this machine by default."""
    gpus: float = 0
    """Ray, SLURM: GPUs per worker; 1 with --device cuda."""
    slurm: tuple[str, ...] = ()
    """SLURM: parameters of submitit as NAME=VALUE, such as slurm_partition=gpu timeout_min=240 mem_gb=32."""
    shard: str | None = None
    """Run part K of N in this process, as K/N; for array jobs."""
    retry_failed: bool = False
    """Run cells again that failed in an earlier run."""
    lease: float = 60.0
    """Seconds without a heartbeat after which another worker takes over a cell."""


IN_FILE = ("methods", "seeds", "task", "negative", "representation", "preset", "views", "size", "perp_neg", "image_size")
"""Options that a YAML file states instead, in addition to the settings of recipes and the options of the prior."""


def sweep(command: SweepOptions) -> None:
    """Run `modeseek sweep`."""
    from modeseek.core.errors import CellsFailed
    from modeseek.sweeps.sweep import begin

    chosen = sweep_of(command)
    cells = chosen.cells()
    begin(chosen, command.out)
    failed: CellsFailed | None = None
    with progress_bar() as progress, ExitStack() as stack:
        task = progress.add_task(f"{len(cells)} cells", total=len(cells))
        try:
            for done, cell in enumerate(_run(command, cells, stack), start=1):
                progress.update(task, completed=done, description=cell.title[:60])
        except CellsFailed as error:
            failed = error
        finally:
            paths, unfinished = _show(cells, command.out)
    if unfinished and failed is None:
        print(f"{unfinished} of {len(cells)} cells are left to other shards", file=sys.stderr)
    print(*paths, sep="\n")
    if failed is not None:
        raise failed


def sweep_of(command: SweepOptions) -> Sweep:
    """Return the sweep that the options describe.

    Raises:
        InvalidInput: a file without prompts, or an option that the file already states.
    """
    from modeseek.core.errors import InvalidInput
    from modeseek.sweeps.reading import read_prompts, read_seeds, read_sweep
    from modeseek.sweeps.sweep import Sweep, methods_of

    changes = {name: getattr(command, name) for name in ("steps", "guidance", "refresh", "samples", "sampler_steps", "lr")}
    if command.source.suffix in (".yaml", ".yml"):
        stated = [name for name, value in changes.items() if value is not None]
        others = {*IN_FILE, *(f.name for f in fields(Model))} - {"device"}
        stated += [f.name for f in fields(command) if f.name in others and getattr(command, f.name) != f.default]
        if stated:
            raise InvalidInput(f"{command.source} defines the sweep: put {', '.join(stated)} into that file")
        found = read_sweep(command.source)
        return replace(
            found, priors=tuple(replace(prior, device=command.device) if command.device != "cpu" else prior for prior in found.priors)
        )
    names = [name.strip() for name in command.methods.split(",") if name.strip()]
    return Sweep(
        prompts=read_prompts(command.source),
        methods=methods_of(names, command.task, preset=command.preset, **changes),
        seeds=read_seeds(command.seeds),
        task=command.task,
        priors=(prior_choice(command),),
        negative=command.negative,
        representation=command.representation,
        preset=command.preset,
        views=command.views,
        size=command.size,
        perp_neg=command.perp_neg,
    )


def _run(command: SweepOptions, cells: list[Any], stack: ExitStack) -> Iterator[Any]:
    """Run the cells and yield each one when it finishes."""
    from modeseek.core.errors import InvalidInput
    from modeseek.sweeps.executors import ending, ray_executor, slurm_executor
    from modeseek.sweeps.reading import read_shard
    from modeseek.sweeps.runner import run_cells, run_shard

    if not 1 <= command.lease <= 86_400:
        raise InvalidInput(f"a lease is 1 to 86400 seconds, got --lease {command.lease}")
    if command.threads is not None and not 1 <= command.threads <= 1024:
        raise InvalidInput(f"threads must be 1 to 1024, got --threads {command.threads}")
    unread = {"local": ("address", "gpus", "slurm"), "ray": ("slurm", "workers"), "slurm": ("address",)}[command.executor]
    wrong = [f"--{name}" for name in unread if getattr(command, name) != getattr(SweepOptions, name)]
    if wrong:
        raise InvalidInput(f"--executor {command.executor} does not read {', '.join(wrong)}: leave it out, or choose another executor")
    common: dict[str, Any] = {"retry_failed": command.retry_failed, "ttl": command.lease}
    if command.shard is not None:
        if command.executor != "local" or command.workers != 1:
            raise InvalidInput("--shard runs in this process: leave out --executor and --workers")
        set_threads(command.threads)
        yield from run_shard(cells, command.out, read_shard(command.shard), **common)
        return
    gpus = command.gpus or float(command.device.startswith("cuda"))
    executor: Executor | None = None
    if command.executor == "ray":
        executor = ray_executor(command.address, gpus=gpus, threads=command.threads or 1)
    elif command.executor == "slurm":
        parameters = _parameters(command.slurm) | ({"gpus_per_node": int(gpus)} if gpus else {})
        executor = slurm_executor(command.out / "slurm", jobs=command.workers, **parameters)
    elif command.workers == 1:
        set_threads(command.threads)
    if executor is not None:
        stack.enter_context(ending(executor))
    yield from run_cells(cells, command.out, workers=command.workers, threads=command.threads, executor=executor, **common)


def set_threads(threads: int | None) -> None:
    """Let torch use that many threads; None: as many as it chooses."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _parameters(words: tuple[str, ...]) -> dict[str, Any]:
    from modeseek.core.errors import InvalidInput

    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InvalidInput(f"--slurm takes NAME=VALUE, got {word!r}")
        found[name] = int(value) if value.isdigit() else value
    return found


def _show(cells: list[Any], out: Path) -> tuple[list[Path], int]:
    """Write the table and the page of the finished cells; return their paths and the number of unfinished cells."""
    from modeseek.sweeps.cells import failure_of, load
    from modeseek.sweeps.page import write_page
    from modeseek.sweeps.sweep import described, rows_of
    from modeseek.sweeps.table import write_table

    rows = [*rows_of(cells, out)]
    paths = write_table(out, rows)
    missing = [cell for cell in cells if load(cell, out) is None]
    shown = [described(cell) | ({"error": failure.error} if (failure := failure_of(cell, out)) is not None else {}) for cell in missing]
    return [*paths, write_page(out, [*rows, *shown], title=out.name)], len(missing) - sum("error" in row for row in shown)
