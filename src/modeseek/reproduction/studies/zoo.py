"""Every score distillation method on four densities, with the exact and with a learned denoiser, three seeds: quality against cost.

Points start on a grid (in 64 dimensions: at random, twice as wide as the data) and are optimised for the same number of steps: Adam at 0.08
with a cosine decay, or whole steps where a method is an iteration of its own. Precision and coverage compare the ends with as many true
samples, k = 3, averaged over five true sets. Ideal: the density's own denoiser in closed form. Calls are counted per object over the whole
run. The settings are those of the publications on a common time axis (`modeseek.reproduction.zoo_methods`), not tuned per density.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from modeseek.core.errors import NonFiniteError
from modeseek.core.sampling import ddim
from modeseek.core.schedules import karras
from modeseek.distillation.loop import optimise
from modeseek.metrics import negative_log_likelihood, precision_recall
from modeseek.plots.dots import Dot, save_dots
from modeseek.representations import Points
from modeseek.representations.points import grid
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.tables import write_results
from modeseek.reproduction.zoo_methods import BY_NAME, DENSITIES, GROUPS, METHODS, DensityName, bench, density
from modeseek.sweeps.cells import Cell, Result

SEEDS = 3
TRUE_SETS = 5
SIGMA_MAX = 5.0


@dataclass(frozen=True, kw_only=True)
class ZooCell:
    """One method on one density with one denoiser and seed; `settings` are the method's in words, so that new ones make a new cell."""

    density: DensityName
    denoiser: str
    method: str
    settings: str
    seed: int
    side: int = 24
    steps: int = 150

    @property
    def title(self) -> str:
        return f"zoo {self.density} {self.denoiser} {self.method} {self.seed}"

    def run(self) -> Result:
        x, calls = self._distilled()
        row = {
            "density": self.density,
            "denoiser": self.denoiser,
            "guidance": "none",
            "method": self.method,
            "row": f"seed {self.seed}",
            "sampler": self.settings,
            "loop": f"{len(x)} points, {self.steps} steps",
            "metrics": score(x, self.density) if bool(x.isfinite().all()) else None,
            "calls": calls,
        }
        return Result(row)

    def _distilled(self) -> tuple[Tensor, float]:
        rng = torch.Generator().manual_seed(1000 + self.seed)
        p, method = density(self.density), BY_NAME[self.method]
        start = grid(self.side) if p.dim == 2 else torch.randn(self.side**2, p.dim, generator=rng)
        prior = bench(self.density, self.denoiser, start, self.steps, self.seed)
        if method.build is None:
            noisy = p.sample(len(start), sigma=SIGMA_MAX, rng=rng).float()
            with torch.no_grad():
                return ddim(prior.denoiser, noisy, karras(32, sigma_max=SIGMA_MAX)), 32.0
        points = Points(start)
        calls = 0.0
        loop: dict[str, Any] = {"steps": self.steps, "optimiser": method.optimiser, "lr": method.lr, "seed": self.seed}
        loop["schedule"] = "constant" if method.optimiser == "sgd" else "cosine"
        try:
            for step in optimise(points, method.build(prior), **loop):
                calls = step.calls
        except NonFiniteError:
            return torch.full_like(start, torch.nan), calls
        return points().detach(), calls


def score(x: Tensor, name: DensityName) -> dict[str, float]:
    """NLL, precision, recall and coverage of points (n, d)."""
    p = density(name)
    sets = p.sample(TRUE_SETS * len(x), rng=torch.Generator().manual_seed(7)).split(len(x))
    found = [precision_recall(x.double(), true) for true in sets]
    return {"nll": negative_log_likelihood(x, p), **{key: fmean(row[key] for row in found) for key in found[0]}}


def cells(settings: Settings) -> list[Cell]:
    densities: tuple[DensityName, ...] = ("fractal", "pinwheel") if settings.quick else DENSITIES
    size = {"side": 12, "steps": 40} if settings.quick else {}
    seeds = [settings.seed] if settings.quick else [settings.seed + k for k in range(SEEDS)]
    return [
        ZooCell(density=d, denoiser=kind, method=method.name, settings=method.settings, seed=seed, **size)  # type: ignore[arg-type]
        for d in densities
        for kind in (("learned",) if settings.quick else ("ideal", "learned"))
        for method in METHODS
        for seed in seeds
    ]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    rows = [result.row for result in results]
    merged = [merge(group) for group in grouped(rows, "density", "denoiser", "method")]
    notes = " ".join((__doc__ or "").split()) + " Means over seeds, with standard errors."
    config = {"seed": settings.seed, "quick": settings.quick, "seeds": 1 if settings.quick else SEEDS}
    write_results(folder, "zoo", rows=merged, config=config, columns=["nll", "precision", "recall", "coverage"], notes=notes)
    panels = []
    for kind in dict.fromkeys(row["denoiser"] for row in rows):
        chosen = [row for row in merged if row["denoiser"] == kind]
        panels.append(
            (f"{kind} denoiser, mean of {len({row['density'] for row in chosen})} densities", [_dot(g) for g in grouped(chosen, "method")])
        )
    save_dots(folder / "zoo.png", panels, x_label="coverage", y_label="precision", groups=GROUPS)


def grouped(rows: Sequence[dict[str, Any]], *keys: str) -> list[list[dict[str, Any]]]:
    """Rows with equal values of the keys, in order of appearance."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return list(found.values())


def merge(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row with the means of the metrics, and their standard errors where there are several; none if any run diverged.

    Example:
        >>> merge([{"metrics": {"nll": 1.0}, "seconds": 1, "row": ""}, {"metrics": {"nll": 3.0}, "seconds": 1, "row": ""}])["metrics"]
        {'nll': 2.0, 'nll error': 1.0}
    """
    made = {**rows[0], "row": "", "seconds": sum(row["seconds"] for row in rows), "paper": None}
    if any(row["metrics"] is None for row in rows):
        return {**made, "metrics": None}
    metrics: dict[str, float] = {}
    for key in rows[0]["metrics"]:
        values = [row["metrics"][key] for row in rows]
        metrics[key] = fmean(values)
        if len(values) > 1:
            metrics[f"{key} error"] = stdev(values) / len(values) ** 0.5
    return {**made, "metrics": metrics}


def _dot(rows: Sequence[dict[str, Any]]) -> Dot:
    """Mean over densities; a diverged run counts as 0."""
    values = [row["metrics"] or {"precision": 0.0, "coverage": 0.0} for row in rows]
    name = rows[0]["method"]
    means = {key: fmean(value[key] for value in values) for key in ("precision", "coverage")}
    return Dot(name, means["coverage"], means["precision"], fmean(row["calls"] for row in rows), BY_NAME[name].group)


EXPERIMENT = Experiment(name="zoo", summary="every method on four densities: precision, coverage, cost", cells=cells, finish=finish)
