r"""Are the samplers of the product density calibrated? Rank statistics and a classifier two-sample test in 2, 16 and 64 dimensions.

The target is a mixture of five rotated Gaussians with its exact denoiser, d its standard deviation per coordinate. For y ~ p and
x = y + l n the product density q(. | x) is the posterior of y, so y is an exact draw of it, and `modeseek.metrics.calibration` compares a
sampler's draws at x with y. `exact draws` are draws of the closed form: their rejections are the tests' false alarms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted
from modeseek.densities import GaussianMixture, anisotropic_mixture
from modeseek.metrics import classifier_test, rank_test
from modeseek.metrics.calibration import smallest
from modeseek.plots import Curve, save_curves
from modeseek.product.reverse import ReverseSampler
from modeseek.product.samplers import EulerSampler, ExactSampler, ProximalSampler, SplitSampler
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.tables import averaged, write_results
from modeseek.sweeps.cells import Cell, Result

DIMENSIONS = (2, 16, 64)
WIDTHS = (0.2, 1.0)  # bandwidths in units of the data's standard deviation per coordinate
LEVEL = 0.05  # of a test
ALARMS = 100  # seeds of the false-alarm rates
SAMPLERS = ("exact", "exact, ddim", "proximal", "reverse, ancestral", "reverse, heun", "split", "split, noised centre", "euler")


@cache
def target(dim: int) -> tuple[GaussianMixture, float]:
    """The mixture and its standard deviation per coordinate."""
    mixture = anisotropic_mixture(dim)
    return mixture, float((mixture.moments()[1].trace() / dim).sqrt())


def sampler_of(name: str, std: float) -> Any:
    """A sampler of about 32 denoiser calls, given the standard deviation of the data if it has that setting."""
    return {
        "exact": ExactSampler(),
        "exact, ddim": ExactSampler(steps=32, solver="ddim"),
        "proximal": ProximalSampler(data_std=std, sigma_max=20 * std),
        "reverse, ancestral": ReverseSampler(steps=32, data_std=std),
        "reverse, heun": ReverseSampler(steps=16, solver="heun", data_std=std),
        "split": SplitSampler(sigma_max=20 * std),
        "split, noised centre": SplitSampler(sigma_max=20 * std, centre="noised"),
        "euler": EulerSampler(sigma_max=20 * std),
    }[name]


def functions(mixture: GaussianMixture, x: Tensor, y: Tensor) -> Tensor:
    """Test functions of the ranks at y (items, d): log p(y), |y - x|^2, and the first two coordinates: (items, 4)."""
    return torch.cat([mixture.log_prob(y)[:, None], ((y - x) ** 2).sum(1, keepdim=True), y[:, :2]], 1)


def tests_of(mixture: GaussianMixture, x: Tensor, y: Tensor, draws: Tensor, seed: int) -> dict[str, float]:
    """Both tests of draws (L, items, d) at x (items, d) against the exact draws y.

    Returns:
        `rank p` (Bonferroni over the test functions), `classifier` accuracy, `classifier p`, and `spread`: the variance of the draws around
        their mean over that of y around it, 1 for a calibrated sampler.
    """
    count = len(draws)
    p_rank = smallest(rank_test(functions(mixture, x, y), torch.stack([functions(mixture, x, one) for one in draws])))
    half = len(x) // 2  # other items for each class, so that all pairs are independent
    accuracy, p_classifier = classifier_test(
        torch.cat([y - x, y], 1)[:half], torch.cat([draws[0] - x, draws[0]], 1)[half : 2 * half], seed=seed
    )
    mean = draws.mean(0)
    around = ((draws - mean) ** 2).sum() / (count - 1) / len(x)
    spread = float(around / (((y - mean) ** 2).sum() / (1 + 1 / count) / len(x)))
    return {"rank p": p_rank, "classifier": accuracy, "classifier p": p_classifier, "spread": spread}


@dataclass(frozen=True, kw_only=True)
class CalibrationCell:
    """One sampler of the product density at one dimension and bandwidth."""

    sampler: str
    dim: int
    width: float
    items: int = 2000
    draws: int = 15
    seed: int = 0

    @property
    def title(self) -> str:
        return f"calibration {self.sampler} in {self.dim} d at {self.width:g} std"

    def run(self) -> Result:
        mixture, std = target(self.dim)
        rng = torch.Generator().manual_seed(self.seed)
        bandwidth = self.width * std
        y = mixture.sample(self.items, rng=rng)
        x = y + bandwidth * torch.randn(y.shape, dtype=y.dtype, generator=rng)
        counted, sampler = Counted(mixture), sampler_of(self.sampler, std)
        noise = torch.randn(self.draws, *x.shape, dtype=x.dtype, generator=rng)
        draws = torch.stack([sampler(counted, x, x.new_full((len(x),), bandwidth), one) for one in noise])
        row = row_of(self.sampler, self.dim, self.width) | {"calls": counted.calls / self.draws}
        if not bool(draws.isfinite().all()):
            return Result(row | {"metrics": None, "loop": "draws diverge"})
        metrics = tests_of(mixture, x, y, draws, self.seed)
        metrics |= {"rejected": float(min(metrics["rank p"], metrics["classifier p"]) < LEVEL / 2)}
        return Result(row | {"metrics": metrics, "loop": f"{self.items} items, {self.draws} draws each"})


@dataclass(frozen=True, kw_only=True)
class FalseAlarmCell:
    """The same tests on exact draws, over many seeds: the shares of rejections at level 0.05."""

    dim: int
    width: float
    items: int = 2000
    draws: int = 15
    seeds: int = ALARMS
    seed: int = 0

    @property
    def title(self) -> str:
        return f"false alarms of calibration in {self.dim} d at {self.width:g} std"

    def run(self) -> Result:
        mixture, std = target(self.dim)
        bandwidth, found = self.width * std, []
        for seed in range(self.seed, self.seed + self.seeds):
            rng = torch.Generator().manual_seed(10_000 + seed)
            y = mixture.sample(self.items, rng=rng)
            x = y + bandwidth * torch.randn(y.shape, dtype=y.dtype, generator=rng)
            draws = torch.stack([mixture.sample_product(x, bandwidth, rng=rng) for _ in range(self.draws)])
            found.append(tests_of(mixture, x, y, draws, seed))
        count = len(found)
        metrics = {name: sum(one[name] for one in found) / count for name in ("classifier", "spread")}
        metrics |= {f"{name} alarms": sum(one[f"{name} p"] < LEVEL for one in found) / count for name in ("rank", "classifier")}
        metrics |= {"rejected": sum(min(one["rank p"], one["classifier p"]) < LEVEL / 2 for one in found) / count}
        row = row_of("exact draws", self.dim, self.width) | {"calls": 0.0, "metrics": metrics}
        return Result(row | {"loop": f"{count} seeds of {self.items} items, {self.draws} draws each"})


def row_of(sampler: str, dim: int, width: float) -> dict[str, Any]:
    """What identifies a row."""
    return {"density": f"mixture, {dim} d", "denoiser": "exact", "guidance": "none", "method": sampler, "row": f"l = {width:g} std"}


def cells(settings: Settings) -> list[Cell]:
    items, draws, alarms = (400, 7, 20) if settings.quick else (2000, 15, ALARMS)
    sizes = {"items": items, "draws": draws}
    found: list[Cell] = []
    for dim in DIMENSIONS:
        for width in WIDTHS:
            found.append(FalseAlarmCell(dim=dim, width=width, seeds=alarms, seed=settings.seed, **sizes))
            for name in SAMPLERS:
                found += [CalibrationCell(sampler=name, dim=dim, width=width, seed=seed, **sizes) for seed in settings.all_seeds]
    return found


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    rows = averaged([result.row for result in results])
    config = {"seed": settings.seed, "seeds": settings.seeds, "quick": settings.quick, "level": LEVEL}
    columns = ["rank p", "classifier", "classifier p", "spread", "rejected", "rank alarms", "classifier alarms"]
    write_results(folder, "calibration", rows=rows, config=config, columns=columns, notes=" ".join((__doc__ or "").split()))
    panels = []
    for width in WIDTHS:
        curves = []
        for name in ("exact draws", *SAMPLERS):
            points = [
                (dim, row["metrics"]["classifier"])
                for dim in DIMENSIONS
                for row in rows
                if row["metrics"] and (row["method"], row["density"], row["row"]) == (name, f"mixture, {dim} d", f"l = {width:g} std")
            ]
            curves.append(Curve(name, [float(dim) for dim, _ in points], [value for _, value in points]))
        panels.append((f"bandwidth {width:g} std", "dimension", "accuracy of the classifier (0.5: calibrated)", curves))
    save_curves(folder / "calibration.png", panels, log_x=True)


EXPERIMENT = Experiment(name="calibration", summary="calibration tests of the samplers of the product density", cells=cells, finish=finish)
