"""The precision-coverage frontier of bandwidth schedules: MSD with exact draws and the learned denoiser, one draw of 32 calls per step.

Three families: Adam at 0.08 with the paper's linear and an exponential schedule; the whole-step rule x <- y with the adaptive
bandwidth, with and without `reach`; the same rule averaged by a smaller rate. Each family is swept over its start
bandwidth, from 32 x 32 starting points.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modeseek.core.schedules import AdaptiveBandwidth, ExponentialBandwidth, LinearBandwidth
from modeseek.plots import Curve, save_curves
from modeseek.product.samplers import ExactSampler, SplitSampler
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.plane import DDIM, Method, SampleCell, msd
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result

STARTS = (0.316, 0.15, 0.075)


def families() -> dict[str, list[Method]]:
    """Schedules by family."""
    found: dict[str, list[Method]] = {"DDIM": [DDIM]}
    found["split, linear, Adam (published at 0.316)"] = [msd(f"split linear {s}", SplitSampler(), LinearBandwidth(start=s)) for s in STARTS]
    found["exact, linear, Adam"] = [msd(f"linear {s}", ExactSampler(), LinearBandwidth(start=s)) for s in STARTS]
    found["exact, exponential, Adam"] = [msd(f"exponential {s}", ExactSampler(), ExponentialBandwidth(start=s)) for s in STARTS]
    for label, reach, lr in (("adaptive", 8**0.5, 1.0), ("adaptive without reach", 0.0, 1.0), ("adaptive, rate 0.3", 8**0.5, 0.3)):
        draw = ExactSampler(steps=16 if reach else 17)
        found[f"exact, {label}, whole steps" if lr == 1 else f"exact, {label}"] = [
            msd(f"{label} {s}", draw, AdaptiveBandwidth(start=s, reach=reach), optimiser="sgd", lr=lr) for s in STARTS
        ]
    return found


def cells(settings: Settings) -> list[Cell]:
    side = 16 if settings.quick else 32
    return [
        SampleCell(density="fractal", denoiser="learned", method=m, points=side, seed=settings.seed)
        for methods in families().values()
        for m in methods
    ]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    family = {method.row: name for name, methods in families().items() for method in methods}
    curves: dict[str, list[Curve]] = {"precision": [], "nll": []}
    for metric, made in curves.items():
        for name in dict.fromkeys(family.values()):
            rows = [r.row for r in results if family[r.row["row"]] == name and r.row["metrics"]]
            made.append(Curve(name, [row["metrics"]["coverage"] for row in rows], [row["metrics"][metric] for row in rows]))
    save_curves(
        folder / "frontier.png",
        [
            ("fractal, learned denoiser", "coverage", "precision", curves["precision"]),
            ("fractal, learned denoiser", "coverage", "NLL (nats)", curves["nll"]),
        ],
    )
    rows = [r.row for r in results]
    config = {"seed": settings.seed, "quick": settings.quick}
    columns = ["nll", "precision", "recall", "coverage", "outliers"]
    write_results(folder, "frontier", rows=rows, config=config, columns=columns, notes=" ".join((__doc__ or "").split()))


EXPERIMENT = Experiment(name="frontier", summary="precision against coverage over schedules", cells=cells, finish=finish)
