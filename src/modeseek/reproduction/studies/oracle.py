r"""Every sampler and gradient against the exact mean shift $m(x) = D(x; \ell) - x$, over bandwidths, on the fractal with its true denoiser.

No estimator is told the answer: each draws its estimates with the true denoiser as its network. An unbiased estimator has slope 1 within a
few standard errors (`slope_z`), `bias_z` near 1 and cosine near 1 (what is missing is Monte-Carlo noise of the draws).
For SDS, SJC and SDI the bandwidth is the noise level at which they ask the denoiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from modeseek.core.schedules import ExponentialBandwidth
from modeseek.gradients import SDS, NoiseLevels
from modeseek.plots import Curve, save_curves
from modeseek.product.samplers import EulerSampler, ExactSampler, ProximalSampler, SplitSampler
from modeseek.reproduction.estimator_cells import OracleCell
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.plane import Method, msd, sdi, sds
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result

BANDWIDTHS = (0.01, 0.0316, 0.1, 0.316, 1.0)
DRAWS = {
    "exact": ExactSampler(),
    "proximal": ProximalSampler(),
    "split": SplitSampler(),
    "split, noised centre": SplitSampler(centre="noised"),
    "split, inverted centre": SplitSampler(centre="inverted"),
    "split, kernel below 1": SplitSampler(interval=(0.0, 1.0)),
    "euler": EulerSampler(),
}


def methods(bandwidth: float) -> list[Method]:
    """Every estimator at one bandwidth."""
    constant = ExponentialBandwidth(start=bandwidth, end=bandwidth)
    level = NoiseLevels(low=bandwidth, high=bandwidth, weight="x0")
    found = []
    for name, draw in DRAWS.items():
        made = msd(name, draw, constant)
        found.append(Method(name="MSD", row=name, sampler=name, gradient=made.gradient))
    sjc = partial(SDS, samples=1, levels=level, variance_reduced=False)
    found += [sds("sds", samples=1, levels=level), Method(name="SJC", row="sjc", sampler="without variance reduction", gradient=sjc)]
    return [*found, sdi("sdi", start=bandwidth * 1.001, end=bandwidth * 0.999)]


def cells(settings: Settings) -> list[Cell]:
    points, estimates = (16, 64) if settings.quick else (32, 256)
    return [
        OracleCell(method=m, bandwidth=b, points=points, estimates=estimates, seed=settings.seed) for b in BANDWIDTHS for m in methods(b)
    ]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    rows = [result.row for result in results]
    config = {"seed": settings.seed, "quick": settings.quick, "points": rows[0]["loop"]}
    columns = ["bandwidth", "slope", "slope_z", "bias_z", "beyond_3", "cosine", "relative_error", "spread"]
    write_results(folder, "oracle", rows=rows, config=config, columns=columns, notes=" ".join((__doc__ or "").split()))
    curves: dict[str, dict[str, list[Curve]]] = {"cosine": {}, "relative_error": {}}
    for metric in curves:
        for name in dict.fromkeys(row["row"] for row in rows):
            found = [row for row in rows if row["row"] == name and row["metrics"] and isinstance(row["metrics"][metric], float)]
            curve = Curve(name, [row["bandwidth"] for row in found], [row["metrics"][metric] for row in found])
            curves[metric][name] = [curve]
    save_curves(
        folder / "oracle.png",
        [
            ("direction", "bandwidth", "cosine with the exact mean shift", [c for found in curves["cosine"].values() for c in found]),
            ("size and direction", "bandwidth", "relative error", [c for found in curves["relative_error"].values() for c in found]),
        ],
        log_x=True,
    )


EXPERIMENT = Experiment(name="oracle", summary="every estimator against the exact mean shift", cells=cells, finish=finish)
