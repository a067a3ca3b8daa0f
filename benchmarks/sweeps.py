"""The same sweep on different executors: one table, byte for byte but the times. `python benchmarks/sweeps.py --out DIR`

    one        this process
    two        two local workers
    ray        a Ray cluster of two nodes, started on this machine
    shards     four array jobs, four processes on one folder
    kills      two local workers, one of them killed every `--every` seconds, ten times
    slurm      submitit's local executor in place of SLURM

Prints seconds, the speed-up of two workers over one, and the runner's own time per cell (leases, files, results) on cells that do nothing.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from modeseek.core.files import write_json
from modeseek.sweeps import Result, run_cells

COLOURS = ("red", "blue", "green", "yellow", "orange", "purple")
SHAPES = ("cube", "sphere", "cylinder", "cone")


@dataclass(frozen=True)
class Nothing:
    """A cell that costs only what the runner costs."""

    number: int

    @property
    def title(self):
        return f"nothing {self.number}"

    def run(self):
        return Result({"number": self.number})


def runner_seconds(count: int = 200) -> float:
    """Seconds of the runner for each cell, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        list(run_cells([Nothing(k) for k in range(count)], Path(folder)))
        return (time.perf_counter() - begun) / count


def command(options, out: Path, *more: str) -> list[str]:
    base = [sys.executable, "-m", "modeseek", "sweep", str(options.out / "prompts.txt"), "--out", str(out), "--prior", options.prior]
    return [*base, "--methods", "sds,msd", "--seeds", "0-1", "--steps", str(options.steps), "--threads", "1", *more]


def table(out: Path) -> list[list[str]]:
    """The table without its times."""
    with (out / "table.csv").open() as file:
        rows = list(csv.reader(file))
    dropped = rows[0].index("seconds")
    return [row[:dropped] + row[dropped + 1 :] for row in rows]


def images(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.glob("cells/*/image.png"))}


def leftovers(out: Path) -> list[str]:
    return [str(path) for path in out.rglob("*") if path.name.endswith(".part") or ".lease" in path.name or path.name == ".lock"]


def run(arguments: list[str], *, limit: float = 3600) -> float:
    begun = time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=limit)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stderr[-2000:]}")
    return time.perf_counter() - begun


def on_ray(options, out: Path) -> float:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        return run(command(options, out, "--executor", "ray", "--address", cluster.address))
    finally:
        cluster.shutdown()


def in_shards(options, out: Path) -> float:
    begun = time.perf_counter()
    processes = [subprocess.Popen(command(options, out, "--shard", f"{k}/4"), stdout=subprocess.DEVNULL) for k in range(1, 5)]
    if any(process.wait() for process in processes):
        sys.exit("a shard failed")
    return time.perf_counter() - begun


def with_kills(options, out: Path) -> tuple[float, int]:
    """Two workers, one of which is killed at random every so often; seconds and kills."""
    begun, kills = time.perf_counter(), 0
    process = subprocess.Popen(command(options, out, "--workers", "2"), stdout=subprocess.DEVNULL)
    chance = random.Random(0)
    ended = threading.Event()
    while kills < 10 and not ended.wait(options.every) and process.poll() is None:
        workers = [pid for pid in descendants(process.pid) if is_worker(pid)]
        if workers:
            os.kill(chance.choice(workers), signal.SIGKILL)
            kills += 1
    if process.wait():
        sys.exit("the sweep with kills failed")
    return time.perf_counter() - begun, kills


def descendants(pid: int) -> list[int]:
    """Processes below a process."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, queue = [], [pid]
    while queue:
        below = parents.get(queue.pop(), [])
        found += below
        queue += below
    return found


def is_worker(pid: int) -> bool:
    """Whether a process of the pool runs cells: a child of the server of processes, with torch's memory."""
    try:
        text = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        return "forkserver" in text and "forkserver" in Path(f"/proc/{parent}/cmdline").read_bytes().decode()
    except OSError:
        return False


def on_slurm_stand_in(options, out: Path) -> float:
    from modeseek.sweeps.executors import slurm_executor
    from modeseek.sweeps.reading import read_prompts, read_seeds
    from modeseek.sweeps.sweep import Sweep, begin, methods_of, rows_of
    from modeseek.sweeps.table import write_table
    from modeseek.tasks.text_to_image import PriorChoice

    sweep = Sweep(
        prompts=read_prompts(options.out / "prompts.txt")[:2],
        methods=methods_of(["sds"], "image", steps=options.steps),
        seeds=read_seeds("0-1"),
        priors=(PriorChoice(name=options.prior),),
    )
    begin(sweep, out)
    began = time.perf_counter()
    executor = slurm_executor(out / "slurm", jobs=2, cluster="local", timeout_min=10)
    list(run_cells(sweep.cells(), out, executor=executor))
    executor.shutdown()
    write_table(out, list(rows_of(sweep.cells(), out)))
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the sweeps and sweeps.json")
    parser.add_argument("--prior", default="solids")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between two kills")
    parser.add_argument("--only", default="one,two,shards,ray,kills,slurm")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default, which would compare Ray at a lower priority than the others
    options.out.mkdir(parents=True, exist_ok=True)
    prompts = [f"a {colour} {shape}" for shape in SHAPES for colour in COLOURS][: options.prompts]
    (options.out / "prompts.txt").write_text("\n".join(prompts) + "\n")
    results: dict[str, float | int | bool] = {"cells": 4 * len(prompts), "runner, s per cell": runner_seconds()}
    ways = {
        "one": lambda out: run(command(options, out)),
        "two": lambda out: run(command(options, out, "--workers", "2")),
        "shards": lambda out: in_shards(options, out),
        "ray": lambda out: on_ray(options, out),
        "kills": lambda out: with_kills(options, out),
        "slurm": lambda out: on_slurm_stand_in(options, out),
    }
    first: Path | None = None
    for name in options.only.split(","):
        out = options.out / name
        found = ways[name](out)
        seconds, kills = found if isinstance(found, tuple) else (found, None)
        results[f"{name}, s"] = round(seconds, 1)
        if kills is not None:
            results["kills"] = kills
        if name != "slurm":
            first = first or out
            results[f"{name}, same table"] = table(out) == table(first)
            results[f"{name}, same images"] = images(out) == images(first)
        results[f"{name}, files left"] = len(leftovers(out))
        print(name, {key: value for key, value in results.items() if key.startswith(name)}, flush=True)
    if {"one, s", "two, s"} <= results.keys():
        results["speed-up of two workers"] = round(float(results["one, s"]) / float(results["two, s"]), 2)
    for key, value in results.items():
        print(f"{key:32s} {value}")
    write_json(options.out / "sweeps.json", results)


if __name__ == "__main__":
    main()
