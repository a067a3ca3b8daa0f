"""Kill commands at random moments and compare what they end with: `python scripts/kill_matrix.py --out DIR [--quick]`

Every command runs once without interruption. It is then started again in another folder and killed: by SIGKILL at `--kills` random moments,
by SIGTERM and by SIGINT at `--signals` moments. After each kill the same command resumes. Whenever an attempt ends by itself,

    its files equal those of the uninterrupted run byte for byte (times aside: "seconds", dates, the folder's own name);
    no process of the command's group is left;
    no temporary file, lease or lock is left.

and the next attempt begins with an empty folder, so that every kill strikes an unfinished run. With `--preloaded` the commands are forked
from a process that has made their imports: kills strike the run itself, and the matrix takes a third of the time.

SIGTERM must end with status 143 and SIGINT with 130, or with 0 where the command had already finished. They are sent once
the process handles them: before that, during the start of Python, the system ends the process, and nothing has begun.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

TIMES = re.compile(rb'"(seconds|started|finished_at|created|date|time|duration|written)": *("[^"]*"|[0-9.e+-]+)')
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
STATUSES = {"SIGKILL": (-9,), "SIGTERM": (143, 0), "SIGINT": (130, 0)}


def commands(prior: str, steps: int, prompts: Path, image: Path) -> dict[str, list[str]]:
    """Name -> arguments without --out."""
    small = ["--prior", prior, "--steps", str(steps)]
    return {
        "image": ["image", "a red cube", *small, "--method", "msd", "--seeds", "2", "--sampler-steps", "3", "--refresh", "5"],
        "3d": ["3d", "a red cube", *small, "--method", "sds", "--views", "1", "--size", "16"],
        "sweep": ["sweep", str(prompts), *small, "--methods", "sds,msd", "--sampler-steps", "3", "--workers", "2", "--threads", "1"],
        "edit": ["edit", str(image), "--source", "a red cube", "--target", "a blue cube", *small],
        "run": ["run", "table1", "--quick", "--workers", "2"],
        "train": ["train", "pinwheel", "--iterations", str(15 * steps)],
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Files by name, without times and without the name of the folder."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = path.read_bytes()
        if path.suffix == ".safetensors":  # whose metadata are written in any order
            size = int.from_bytes(data[:8], "little")
            data = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode() + data[8 + size :]
        if path.suffix in (".json", ".md", ".csv", ".html"):
            data = TIMES.sub(b"", data.replace(str(folder).encode(), b"OUT").replace(folder.name.encode(), b"NAME"))
        if (path.parent / "results.json").is_file():  # tables of an experiment, whose last column is the time
            data = re.sub(rb"\|[^|\n]*\|$", b"|", data, flags=re.MULTILINE)
            data = re.sub(rb'<td class="number"[^>]*>[^<]*</td>(\s*</tr>)', rb"\1", data)
        if path.name == "table.csv":
            data = b"\n".join(line.rsplit(b",", 1)[0] for line in data.splitlines())
        if path.suffix not in (".parquet", ".pdf"):
            found[path.relative_to(folder).as_posix()] = data
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files, leases and locks."""
    names = (path.name for path in folder.rglob("*"))
    return sorted(name for name in names if name.endswith((".part", "lock")) or ".lease" in name)


def group(number: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == number and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


class Forked:
    """A command in a fork of this process, with the part of `subprocess.Popen` that is used here."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for target, path, flags in ((1, Path(os.devnull), os.O_WRONLY), (2, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)):
                os.dup2(os.open(path, flags), target)
            sys.argv = ["modeseek", *arguments]
            try:
                runpy.run_module("modeseek", run_name="__main__")
            except SystemExit as error:
                os._exit(int(error.code or 0))
            os._exit(0)

    def poll(self) -> int | None:
        if self.status is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if found else None
        return self.status

    def wait(self, timeout: float = 1e9) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("modeseek", timeout)
            time.sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


PRELOADED = (
    "modeseek.cli",
    "modeseek.sweeps.preload",
    "modeseek.tasks.editing",
    "modeseek.reproduction.paper",
    "diffusers",
    "transformers",
)


def preload() -> None:
    """Import what the commands import; threads would not survive the fork."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in PRELOADED:
        importlib.import_module(name)
    from diffusers import StableDiffusionPipeline  # noqa: F401 - imported lazily by its package
    from transformers import CLIPTextModel  # noqa: F401


def start(arguments: Sequence[str], out: Path, log: Path) -> subprocess.Popen[bytes] | Forked:
    if "diffusers" in sys.modules:
        return Forked([*arguments, "--out", str(out)], log)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        command = [sys.executable, "-m", "modeseek", *arguments, "--out", str(out)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=environment, start_new_session=True)


def handles_sigterm(number: int) -> bool:
    """Whether a process catches or ignores SIGTERM."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{number}/status").read_text().splitlines())
    except OSError:
        return False
    return bool((int(lines["SigCgt"], 16) | int(lines["SigIgn"], 16)) >> (signal.SIGTERM - 1) & 1)


def gone(number: int, limit: float = 60.0) -> bool:
    """Whether all processes of a group end within a while."""
    deadline = time.monotonic() + limit
    while group(number) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not group(number)


def wait(process: subprocess.Popen[bytes] | Forked, limit: float) -> int:
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return 9999


def killed(name: str, arguments: list[str], kind: str, moments: list[float], out: Path, whole: dict[str, bytes], log: Path) -> list[str]:
    """Kill the command once at each moment (seconds after its start) and let it end; what is wrong, in words."""
    wrong = []
    for moment in moments:
        process = start(arguments, out, log)
        time.sleep(moment)
        while kind != "SIGKILL" and process.poll() is None and not handles_sigterm(process.pid):
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(SIGNALS[kind])
        status = wait(process, 300)
        if status not in (*STATUSES[kind], 0):
            wrong.append(f"{name}: status {status} after {kind} at {moment:.2f} s")
        if not gone(process.pid):
            wrong.append(f"{name}: processes {group(process.pid)} outlived {kind} at {moment:.2f} s")
            os.killpg(process.pid, signal.SIGKILL)
        if kind != "SIGKILL" and (left := [file for file in leftovers(out) if not file.endswith("lock")]):
            wrong.append(f"{name}: {kind} at {moment:.2f} s left {left}")
        if status == 0:
            wrong += differences(name, kind, out, whole)
            shutil.rmtree(out)
    process = start(arguments, out, log)
    status = wait(process, 1800)
    if status:
        return [*wrong, f"{name}: status {status} of the attempt that was not killed, see {log}"]
    if not gone(process.pid):
        wrong.append(f"{name}: processes are left")
    return [*wrong, *differences(name, kind, out, whole)]


def differences(name: str, kind: str, out: Path, whole: dict[str, bytes]) -> list[str]:
    """Where a finished folder differs from the uninterrupted run's, and what is left in it."""
    found, left = contents(out), leftovers(out)
    wrong = [f"{name} after {kind}: {file} differs" for file in sorted(found.keys() | whole.keys()) if found.get(file) != whole.get(file)]
    return [*wrong, f"{name}: {left} are left"] if left else wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder, emptied first")
    parser.add_argument("--prior", default="solids", help="a small one makes it quick")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", default="image,3d,edit,sweep,run,train")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signals", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preloaded", action="store_true", help="fork the commands after their imports")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would the commands
    if options.preloaded:
        preload()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    prompts = options.out / "prompts.txt"
    prompts.write_text("a red cube\na blue sphere\n")
    image = options.out / "image.png"
    Image.new("RGB", (64, 64), (200, 40, 40)).save(image)
    chance = random.Random(options.seed)
    report: dict[str, object] = {}
    failures: list[str] = []
    for name, arguments in commands(options.prior, options.steps, prompts, image).items():
        if name not in options.only.split(","):
            continue
        whole, log = options.out / name / "whole", options.out / f"{name}.log"
        begun = time.monotonic()
        process = start(arguments, whole, log)
        if wait(process, 3600):
            print(f"{name}: fails without being killed, see {log}")
            return 1
        seconds = time.monotonic() - begun
        for kind in SIGNALS:
            count = options.kills if kind == "SIGKILL" else options.signals
            moments = [chance.uniform(0.02, 1.05) * seconds for _ in range(count)]
            found = killed(name, arguments, kind, moments, options.out / name / kind, contents(whole), log)
            report[f"{name} {kind}"] = {"kills": count, "seconds of the whole": round(seconds, 1), "wrong": found}
            failures += found
            print(f"{name:6s} {kind}: {count} kills, {'; '.join(found) or 'equal, nothing left'}", flush=True)
    (options.out / "report.json").write_text(json.dumps(report, indent=1))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
