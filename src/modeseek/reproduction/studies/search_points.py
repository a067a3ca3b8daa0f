"""Search for the settings of each method in the plane: 12 settings per method, with the same points, seed and score.

Fractal, learned denoiser, 32 x 32 starting points, 150 steps. The score is the harmonic mean of precision and coverage, so that neither a
collapse on one mode nor a scatter wins. The best settings of SDS, VSD and SDI are the "best settings" rows of
`modeseek.reproduction.plane`, used in every column. The tuning was not equal in all; docs/provenance.md says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from modeseek.core.schedules import AdaptiveBandwidth
from modeseek.gradients import NoiseLevels
from modeseek.product.samplers import ExactSampler
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.plane import Method, SampleCell, msd, sdi, sds, vsd
from modeseek.reproduction.tables import write_results
from modeseek.sweeps.cells import Cell, Result


def knobs() -> list[Method]:
    """12 settings of each of SDS, VSD, SDI and MSD with the adaptive bandwidth."""
    found: list[Method] = []
    for high, weight, lr in product((5.0, 0.5, 0.05), ("eps", "x0"), (0.08, 0.02)):
        levels = NoiseLevels(high=high, distribution="loguniform", weight=weight)  # type: ignore[arg-type]
        found.append(sds(f"high {high} {weight} rate {lr}", levels=levels, lr=lr))
    for high, lr, aux in product((5.0, 0.5, 0.05), (0.08, 0.02), (1e-4, 1e-3)):
        levels = NoiseLevels(high=high, distribution="loguniform", weight="x0")
        found.append(vsd(f"high {high} rate {lr} aux {aux}", levels=levels, learning_rate=aux, lr=lr))
    for start, lowest, loop in product((1.0, 0.2), (0.1, 0.5, 0.9), ({}, {"optimiser": "sgd", "lr": 1.0})):
        row = f"start {start} lowest {lowest} {loop.get('optimiser', 'adam')}"
        found.append(sdi(row, start=start, spacing="karras", lowest=lowest, loop=loop))
    for start, end, reach in product((0.2, 0.15, 0.1), (0.01, 0.005), (0.0, 8**0.5)):
        rule = AdaptiveBandwidth(start=start, end=end, reach=reach)
        draw = ExactSampler(steps=16 if reach else 17)
        found.append(msd(f"start {start} end {end} reach {reach:.2g}", draw, rule, optimiser="sgd", lr=1.0))
    return found


def score(metrics: dict[str, float] | None) -> float:
    """Harmonic mean of precision and coverage; 0 for a diverged run.

    Example:
        >>> score({"precision": 1.0, "coverage": 0.5})
        0.6666666666666666
    """
    if metrics is None or metrics["precision"] + metrics["coverage"] == 0:
        return 0.0
    return 2 * metrics["precision"] * metrics["coverage"] / (metrics["precision"] + metrics["coverage"])


def cells(settings: Settings) -> list[Cell]:
    """A cell for each of `knobs`, at 32 x 32 points (16 x 16 when quick)."""
    side = 16 if settings.quick else 32
    return [SampleCell(density="fractal", denoiser="learned", method=m, points=side, seed=settings.seed) for m in knobs()]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    """The table, best score first within each method."""
    rows = [dict(result.row) for result in results]
    for row in rows:
        row["metrics"] = {"score": score(row["metrics"]), **(row["metrics"] or {})}
    rows.sort(key=lambda row: (row["method"], -row["metrics"]["score"]))
    config = {"seed": settings.seed, "quick": settings.quick, "budget": 12}
    columns = ["score", "nll", "precision", "recall", "coverage", "outliers"]
    write_results(folder, "search", rows=rows, config=config, columns=columns, notes=__doc__ or "")


EXPERIMENT = Experiment(name="search", summary="every method's knobs, 12 settings each", cells=cells, finish=finish)
