"""What a CUDA card must show, in at most eight minutes: `make gpu`, or `python benchmarks/gpu.py`.

    equality     gradients of every recipe and the NeRF on the card against the CPU, within stated tolerances
    resume       a run that is killed half-way ends with the same bytes as a run that is not
    steps        SDS and MSD steps of a UNet of Stable Diffusion's size (random weights, 512 px) against bare calls of the UNet: float32,
                 bfloat16, bfloat16 compiled; peak memory
    nccl         one process: sums and gathers over NCCL
    others       threestudio's guidance step and tiny-cuda-nn's hash grid, where they are installed
    tests        the tests marked gpu

Every figure goes to benchmarks/gpu.json and, with the card's name, to the table in docs/benchmarks.md. Without a card the script says so,
and changes nothing. `--dry-run` runs the same code on the CPU with tiny sizes and writes to `--out` alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_steps import Report, large_steps, seconds

from modeseek import load_prior
from modeseek.core.files import read_json, write_json, write_text
from modeseek.distillation.recipes import RECIPES, build_gradient
from modeseek.representations.nerf import Cameras, NeRF, NeRFSettings
from modeseek.tasks.text_to_image import ImageRun, PriorChoice, distill_images

ROOT = Path(__file__).parent.parent
BUDGET = 8 * 60.0
TOLERANCES = {"gradient": 2e-3, "nerf image": 2e-3, "nerf gradient": 5e-3}
"""Largest difference to the CPU, relative to the largest entry, in float32 without TF32."""
BEGIN, END = "<!-- gpu: begin -->", "<!-- gpu: end -->"


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference of two tensors over the largest entry of the second."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


# ---------------------------------------------------------------- equality
def equality(device: str) -> Report:
    """Each recipe's gradient of one image at one point, and a NeRF's render and parameter gradients, on both devices."""
    found: Report = {}
    prompt = ["a red cube on a blue cylinder, grey background, front view"]
    here, there = load_prior("solids"), load_prior("solids", device=device)
    x = 0.5 * torch.randn(1, *here.event, generator=torch.Generator().manual_seed(0))
    for name, recipe in RECIPES.items():
        estimates = []
        for prior in (here, there):
            gradient = build_gradient(replace(recipe, sampler_steps=4), prior, prompt)
            estimates.append(gradient(x.to(prior.device), progress=0.5, rng=torch.Generator().manual_seed(1)).gradient)
        found[f"gradient of {name}"] = relative(estimates[1], estimates[0])
    nerfs = [NeRF(NeRFSettings.cpu(), seed=0), NeRF(NeRFSettings.cpu(), seed=0).to(device)]
    images = []
    for nerf in nerfs:
        image = nerf.render(Cameras.orbit([30.0], 20.0), (24, 24)).image
        image.square().sum().backward()
        images.append(image)
    found["nerf image"] = relative(images[1], images[0])
    pairs = zip(nerfs[1].parameters(), nerfs[0].parameters(), strict=True)
    found["nerf gradient"] = max(relative(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None)
    for name, value in found.items():
        limit = TOLERANCES[name] if name in TOLERANCES else TOLERANCES["gradient"]
        if not value <= limit:
            raise AssertionError(f"{name} differs from the CPU by {value:.2g}, more than {limit:g}")
    return found


def resume(device: str, steps: int) -> Report:
    """Half a run, then the same command; and a whole run."""
    run = ImageRun(
        prompt="a red cube",
        prior=PriorChoice(device=device),
        recipe=replace(RECIPES["msd"], steps=steps, refresh=5, sampler_steps=4),
        seeds=(0,),
    )
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        list(distill_images(run, whole))
        loop = distill_images(run, broken)
        for _ in range(max(steps // 2, 1)):
            next(loop)
        loop.close()  # type: ignore[attr-defined]
        list(distill_images(run, broken))
        equal = (whole / "image-0.png").read_bytes() == (broken / "image-0.png").read_bytes()
    if not equal:
        raise AssertionError("a resumed run ends with other pixels")
    return {"resumed run equals the whole one": equal}


# ---------------------------------------------------------------- the rest
def nccl(device: str) -> Report:
    """A process group of one process."""
    import torch.distributed as dist

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}
    backend = "nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, rank=0, world_size=1)
    try:
        value = torch.arange(4.0, device=device)
        dist.all_reduce(value)
        parts = [torch.empty_like(value)]
        dist.all_gather(parts, value)
        right = bool(torch.equal(parts[0].cpu(), torch.arange(4.0)))
    finally:
        dist.destroy_process_group()
    if not right:
        raise AssertionError("a sum over one process changes its values")
    return {f"sum and gather over {backend}": right}


def others(device: str) -> Report:
    """Which of the packages to compare with are installed, and the hash grid against tiny-cuda-nn's."""
    found: Report = {
        name: bool(importlib.util.find_spec(module)) for name, module in (("threestudio", "threestudio"), ("tiny-cuda-nn", "tinycudann"))
    }
    if not (found["tiny-cuda-nn"] and device.startswith("cuda")):
        return {f"{name} is installed": there for name, there in found.items()}
    import tinycudann

    from modeseek.representations.nerf import HashGrid, HashGridSettings

    settings = HashGridSettings()
    grid = HashGrid(settings, rng=torch.Generator().manual_seed(0)).to(device)
    peer = tinycudann.Encoding(3, {"otype": "HashGrid", "n_levels": settings.levels, "n_features_per_level": 2, "log2_hashmap_size": 19})
    points = torch.rand(2**18, 3, device=device)

    def both(encoding: Any) -> Callable[[], None]:
        return lambda: encoding(points).float().sum().backward()

    times = {name: seconds(both(encoding), 5, torch.cuda.synchronize) for name, encoding in (("own", grid), ("peer", peer))}
    return {"hash grid / tiny-cuda-nn": times["own"] / times["peer"], "hash grid, 2^18 points, s": times["own"]}


def tests(limit: float) -> Report:
    """The tests marked gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:xdist", str(ROOT / "tests")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    if done.returncode not in (0, 5):
        raise AssertionError(last)
    return {"tests marked gpu": last}


def card(device: str) -> str:
    """The name of the card."""
    return torch.cuda.get_device_name(0) if device.startswith("cuda") else f"dry run on a CPU ({torch.get_num_threads()} threads)"


def table(report: Report) -> str:
    """The report as a table for the documentation."""
    head = f"{report['card']}, torch {report['torch']}, {report['date']}:\n\n| what | measured |\n|---|---|\n"
    rows = []
    for part, values in report["parts"].items():
        for name, value in values.items():
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append(f"| {part}: {name} | {shown} |")
    return head + "\n".join(rows) + "\n"


def publish(report: Report) -> None:
    """Write benchmarks/gpu.json and the table in docs/benchmarks.md."""
    write_json(ROOT / "benchmarks" / "gpu.json", report)
    page = ROOT / "docs" / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(page, f"{before}{BEGIN}\n{table(report)}{END}{after}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny sizes")
    parser.add_argument("--out", type=Path, help="folder for gpu.json instead of benchmarks/ and docs/")
    parser.add_argument("--seconds", type=float, default=BUDGET, help="parts that would begin later are left out")
    options = parser.parse_args(arguments)
    if not (torch.cuda.is_available() or options.dry_run):
        kept = ROOT / "benchmarks" / "gpu.json"
        last = f"the last figures are of {read_json(kept)['card']}" if kept.exists() else "there are no figures yet"
        print(f"no CUDA card on this machine: nothing is measured, and {last}")
        return 0
    warnings.simplefilter("ignore")
    device, tiny = ("cpu", True) if options.dry_run else ("cuda", False)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # for equality; the steps are timed with the default
    begun = time.monotonic()
    parts: dict[str, Callable[[], Report]] = {
        "equality": lambda: equality(device),
        "resume": lambda: resume(device, 4 if tiny else 40),
        "steps": lambda: large_steps(device, tiny=tiny, repeats=1 if tiny else 10),
        "nccl": lambda: nccl(device),
        "others": lambda: others(device),
    }
    if not options.dry_run:
        parts["tests"] = lambda: tests(max(10.0, options.seconds - (time.monotonic() - begun)))
    report: Report = {"card": card(device), "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "parts": {}}
    failed = 0
    for name, part in parts.items():
        if time.monotonic() - begun > 0.9 * options.seconds:
            report["parts"][name] = {"left out": "no time"}
            continue
        try:
            report["parts"][name] = part()
        except Exception as error:
            failed += 1
            report["parts"][name] = {"failed": f"{type(error).__name__}: {error}"[:300]}
        print(name, report["parts"][name], flush=True)
    report["seconds"] = round(time.monotonic() - begun, 1)
    if options.out is not None:
        write_json(options.out / "gpu.json", report)
        write_text(options.out / "gpu.md", table(report))
    elif not options.dry_run:
        publish(report)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
