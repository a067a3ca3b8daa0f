"""The NeRF's parts against their bare counterparts, as ratios: `python benchmarks/nerf.py`, or within `benchmarks/run.py`.

hash grid     forward and backward against a bare gather of the same entries and its backward, the indices ready
a step        rendering and its backward pass with the occupancy grid against the whole box, on a blob that fills a tenth of it
a whole step  of `modeseek 3d`, rendering, draws and update, against the bare UNet calls of its views; and the peak memory of a process
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import torch

from modeseek.representations.nerf import HashGrid, HashGridSettings, NeRF, NeRFSettings, Views
from modeseek.tasks.text_to_3d import ObjectRun, steps_of, volume_of


def hash_grid(points: int, settings: HashGridSettings, repeats: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(0)
    grid, where = HashGrid(settings, rng=rng), torch.rand(points, 3, generator=rng)
    upstream = torch.randn(points, grid.features, generator=rng)
    table = grid.table.detach().clone().requires_grad_()
    low = (where.T[:, None] * grid.cells[None, :, None]).floor().long()
    entries = torch.cat(list(grid._entries(low))).long()
    gradient = torch.randn(len(entries), 2, generator=rng)

    def package() -> None:
        grid.zero_grad()
        grid(where).backward(upstream)

    def bare() -> None:
        table.grad = None
        table.index_select(0, entries).backward(gradient)

    from run import ratio  # not above: run.py imports this file

    found, with_grid, without = ratio(package, bare, repeats)
    size = f"{points} points x {settings.levels} levels"
    return {f"hash grid / bare gather, {size}": found, f"hash grid, {size}, s": with_grid, f"bare gather, {size}, s": without}


def occupancy(size: int, samples: int, repeats: int) -> dict[str, float]:
    settings = NeRFSettings.cpu()
    field = replace(settings.field, blob_width=0.55, blob_scale=30.0)
    settings = replace(settings, field=field, views=Views(count=1, size=(size, size)), march=replace(settings.march, samples=samples))
    with_grid, without = NeRF(settings), NeRF(replace(settings, occupancy=None))
    cameras = with_grid.cameras
    upstream = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))

    def step(nerf: NeRF) -> Callable[[], None]:
        return lambda: nerf(cameras).backward(upstream)

    from run import ratio

    found, grid_seconds, dense_seconds = ratio(step(with_grid), step(without), repeats)
    share = float(with_grid.occupancy.fraction()) if with_grid.occupancy is not None else 1.0
    return {
        f"rendered step, {share:.0%} of cells occupied / whole box": found,
        "with the grid, s": grid_seconds,
        "whole box, s": dense_seconds,
    }


def whole_steps() -> tuple[Callable[[], None], Callable[[], None], int]:
    """As many steps as one draw serves, a call per step; the same number of bare UNet calls of as many views; and that number."""
    run = ObjectRun(prompt="a red cube on a blue cylinder, grey background")
    prior = run.prior.open()
    nerf = volume_of(run, prior)
    nerf.settings = replace(nerf.settings, background_first=0)  # whose steps render no gradient
    steps, count, pairs = steps_of(run, prior, nerf), run.recipe.refresh, 2 * nerf.settings.views.count
    unet, tokens = prior.pipeline.unet, prior.pipeline.tokenizer.model_max_length  # type: ignore[attr-defined]
    z, t = torch.randn(pairs, *prior.event), torch.full((pairs,), 500)
    states = torch.randn(pairs, tokens, unet.config.cross_attention_dim)

    def package() -> None:
        for _ in range(count):
            next(steps)

    @torch.no_grad()
    def bare() -> None:
        for _ in range(count):
            unet(z, t, states)

    return package, bare, count


def whole_step(repeats: int) -> dict[str, float]:
    from run import ratio

    package, bare, count = whole_steps()
    found, whole, calls = ratio(package, bare, repeats)
    command = [sys.executable, "-W", "ignore", __file__, "memory"]
    peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    return {
        "step of modeseek 3d / its bare UNet calls": found,
        "step of modeseek 3d, s": whole / count,
        "its bare UNet calls, s": calls / count,
        "peak memory of modeseek 3d, MB": peak,
    }


def benchmarks(*, quick: bool) -> dict[str, float]:
    """All of them; quick: small and once."""
    if quick:
        return hash_grid(2048, HashGridSettings.cpu(), 1) | occupancy(16, 48, 1) | whole_step(1)
    return hash_grid(32768, HashGridSettings.cpu(), 9) | hash_grid(16384, HashGridSettings(), 5) | occupancy(64, 96, 5) | whole_step(5)


if __name__ == "__main__":
    if sys.argv[1:] == ["memory"]:
        whole_steps()[0]()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        for name, value in benchmarks(quick=False).items():
            print(f"{name:60s} {value:9.3f}")
