"""Speed and memory as ratios within one run: `make bench` (or --quick), results on the screen and in OUT/benchmarks.json.

ideal denoiser      against a bare scaled_dot_product_attention call on ready tensors, eager log-sum-exp, scikit-learn's mean shift
its memory          peak growth of a fresh process at 10^4 queries x 10^5 points; and with ten times more of either
a distillation step MSD with exact draws at 4096 points and the learned net, against as many bare calls of the net
a step on images    SDS through the encoder on the embedded prior, against the bare UNet call and the encoder forward and backward; and the
                    peak memory of a fresh process for each
import modeseek     against import torch
the NeRF            its hash grid and its occupancy grid, see nerf.py
a loaded pipeline   its D against the bare UNet call, see loaded.py
a run's page        against the run it shows, and its size, see pages.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import image_steps
import loaded
import nerf
import pages
import torch
from torch.nn.functional import scaled_dot_product_attention

import modeseek
from modeseek.core.files import write_json
from modeseek.representations.points import grid


def seconds(call, repeats: int) -> float:
    """Median time of a call after one warm-up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ratio(call, reference, repeats: int) -> tuple[float, float, float]:
    """(call / reference, seconds of call, seconds of reference), timed in turn so that drift of the machine cancels."""
    call()
    reference()
    pairs = [(seconds(call, 1), seconds(reference, 1)) for _ in range(repeats)]
    return statistics.median(a / b for a, b in pairs), *(statistics.median(column) for column in zip(*pairs, strict=True))


def ideal_denoiser(queries: int, points: int, repeats: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(0)
    data = modeseek.fractal("A").sample(points, rng=rng)
    x = torch.rand(queries, 2, generator=rng) * 3 - 1.5
    ideal, sigma = modeseek.EmpiricalDensity(data), torch.tensor(0.1)
    q, k, v = (torch.randn(1, 1, n, 8, generator=rng) for n in (queries, points, points))
    u = data.float()

    def eager():
        parts = [(-(torch.cdist(part, u) ** 2) / 0.02).softmax(1) @ u for part in x.split(100)]
        return torch.cat(parts)

    bare, package, reference = ratio(lambda: ideal(x, sigma), lambda: scaled_dot_product_attention(q, k, v, scale=1.0), repeats)
    slow, _, eager_seconds = ratio(lambda: ideal(x, sigma), eager, max(1, repeats // 3))
    return {
        "ideal / bare attention": bare,
        "ideal / eager log-sum-exp": slow,
        "ideal, s": package,
        "bare attention, s": reference,
        "eager, s": eager_seconds,
    }


def against_scikit_learn(points: int) -> dict[str, float]:
    """Mean shift of every data point to convergence, flat kernel there and Gaussian here, 30 iterations each."""
    from sklearn.cluster import MeanShift

    data = modeseek.pinwheel().sample(points, rng=torch.Generator().manual_seed(0))
    ideal, numbers = modeseek.EmpiricalDensity(data), data.numpy()

    def package():
        x = data.float()
        for _ in range(30):
            x = ideal(x, torch.tensor(0.1))

    found = ratio(package, lambda: MeanShift(bandwidth=0.2, max_iter=30).fit(numbers), 1)
    return {f"ideal / scikit-learn mean shift, {points} points": found[0]}


MEMORY = """
import resource, sys, torch, modeseek
queries, points = int(sys.argv[1]), int(sys.argv[2])
rng = torch.Generator().manual_seed(0)
data, x = torch.randn(points, 2, generator=rng), torch.randn(queries, 2, generator=rng)
ideal = modeseek.EmpiricalDensity(data)
ideal(x[:10], torch.tensor(0.1))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ideal(x, torch.tensor(0.1))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, before / 1024)
"""


def peak_memory(queries: int, points: int) -> tuple[float, float]:
    """Growth of a fresh process's peak during one call, and its peak before, in MB."""
    output = subprocess.run([sys.executable, "-c", MEMORY, str(queries), str(points)], capture_output=True, text=True, check=True)
    growth, before = map(float, output.stdout.split())
    return growth, before


def step_overhead(side: int, repeats: int) -> dict[str, float]:
    """Distillation steps against the same number of bare denoiser calls at the same number of points."""
    net = modeseek.embedded("fractal-a")
    x = grid(side)
    msd = modeseek.MSD(denoiser=net, sampler=modeseek.ExactSampler())
    steps = 4

    def loop():
        for step in modeseek.distill(modeseek.Points(x), msd, steps=steps):
            calls.append(step.calls)

    calls: list[float] = []
    loop()
    levels = torch.full((len(x),), 0.1)

    def bare():
        for _ in range(int(calls[steps - 1])):
            net(x, levels)

    found, with_loop, without = ratio(loop, bare, repeats)
    return {
        f"distillation step / its {calls[steps - 1] / steps:.0f} bare calls, {len(x)} points": found,
        "loop, s": with_loop,
        "bare, s": without,
    }


def image_step(batch: int, repeats: int) -> dict[str, float]:
    """A distillation step on images against its bare network calls: time in turn, peak memory in processes of their own."""
    made, steps = image_steps.prepare(batch), 5
    found, with_loop, without = ratio(lambda: image_steps.loop(*made, steps), lambda: image_steps.bare(*made, steps), repeats)
    peaks = {}
    for kind in ("loop", "bare"):
        command = [sys.executable, "-W", "ignore", image_steps.__file__, kind, str(batch)]
        peaks[kind] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    return {
        f"step on images / its bare calls, batch {batch}": found,
        "a step on images, s": with_loop / steps,
        "its bare calls, s": without / steps,
        "peak memory / bare calls": peaks["loop"] / peaks["bare"],
        "peak memory, MB": peaks["loop"],
    }


def import_time(repeats: int) -> dict[str, float]:
    def run(module):
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    return {"import modeseek / import torch": ratio(run("modeseek"), run("torch"), repeats)[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes and one repeat: checks that everything runs")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for benchmarks.json")
    options = parser.parse_args()
    queries, points, repeats = (1000, 10_000, 1) if options.quick else (10_000, 100_000, 5)
    results = ideal_denoiser(queries, points, repeats)
    results |= against_scikit_learn(500 if options.quick else 3000)
    for q, p in [(queries, points)] if options.quick else [(queries, points), (10 * queries, points // 10), (queries, 10 * points)]:
        growth, before = peak_memory(q, p)
        results[f"memory of {q} x {p}: growth, MB"] = growth
        results[f"memory of {q} x {p}: peak, MB"] = growth + before
    results |= step_overhead(32 if options.quick else 64, repeats)
    results |= image_step(1 if options.quick else 4, 1 if options.quick else 7)
    results |= import_time(1 if options.quick else 5)
    results |= nerf.benchmarks(quick=options.quick)
    results |= loaded.benchmarks(quick=options.quick)
    results |= pages.benchmarks(quick=options.quick)
    for name, value in results.items():
        print(f"{name:60s} {value:9.3f}")
    write_json(options.out / "benchmarks.json", {"torch": torch.__version__, "threads": torch.get_num_threads(), **results})


if __name__ == "__main__":
    main()
