r"""Every gradient against the exact mean shift in image space: the ideal denoiser of true renders, 12 288 dimensions.

The density is that of 512 renders of a held-out caption, whose denoiser is exact (`modeseek.priors.solids_ideal`), so the mean shift
m(x) = D(x; l) - x is known at every x and l. The points x are what a distillation meets: renders of other cameras, blurred. Each gradient
is estimated repeatedly with the exact denoiser as its network; what differs from m is the estimator's own error:

    slope            projection of the mean estimate on -m, 1 if unbiased
    cosine           of the mean estimate with -m
    relative_error   |mean estimate + m| / |m|, which includes the Monte-Carlo error of the mean
    spread           standard deviation of one estimate over |m|
    renders          effective number of renders under the posterior at l, exp(entropy): 1 where the kernel picks one render

SDS, SJC and SDI have no bandwidth; the noise level at which they evaluate the denoiser takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from modeseek.core.schedules import ExponentialBandwidth
from modeseek.gradients import MSD, SDI, SDS, MeanShift, NoiseLevels
from modeseek.metrics import against_oracle
from modeseek.plots import Curve, save_curves
from modeseek.priors.solids_ideal import IdealSolidsPrior, render_density
from modeseek.product.reverse import ReverseSampler
from modeseek.product.samplers import EulerSampler, ExactSampler, ProximalSampler, SplitSampler
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.tables import write_results
from modeseek.solids.captions import parse
from modeseek.solids.renders import true_renders
from modeseek.sweeps.cells import Cell, Result

CAPTIONS = ("a red house, grey background, front view", "a green rocket, navy background, side view")
BANDWIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
RENDERS = 512
OTHER_CAMERAS = 1  # seed of the cameras behind the points x; the density has 0
TOP = 80.0
SHOWN = 3.0  # largest relative error in the figure
COLUMNS = ["bandwidth", "renders", "slope", "cosine", "relative_error", "spread"]


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """A gradient class with its settings bound, by name.

    Args:
        method, sampler: names for the table.
        gradient: gradient class with all settings but the denoiser and the level bound.
        level: how the level enters: as a bandwidth schedule, as a fixed noise level, or as the start and end of SDI's schedule.
    """

    method: str
    sampler: str
    gradient: partial[Any]
    level: str = "bandwidth"

    def build(self, denoiser: Any, level: float) -> Any:
        """The gradient at one bandwidth or noise level."""
        if self.level == "bandwidth":
            return self.gradient(denoiser=denoiser, bandwidth=ExponentialBandwidth(start=level, end=level))
        if self.level == "noise":
            return self.gradient(denoiser=denoiser, levels=NoiseLevels(low=level, high=level, weight="x0"))
        return self.gradient(denoiser=denoiser, start=level * 1.001, end=level * 0.999)


ESTIMATORS = (
    Estimator(method="mean shift", sampler="one call", gradient=partial(MeanShift)),
    Estimator(method="MSD", sampler="exact, Heun, 17 levels", gradient=partial(MSD, sampler=ExactSampler(sigma_max=TOP))),
    Estimator(
        method="MSD", sampler="exact, DDIM, 9 levels", gradient=partial(MSD, sampler=ExactSampler(steps=9, solver="ddim", sigma_max=TOP))
    ),
    Estimator(
        method="MSD",
        sampler="proximal, 9 levels",
        gradient=partial(MSD, sampler=ProximalSampler(steps=9, sigma_max=TOP, data_std=0.5, spread=10.0)),
    ),
    Estimator(method="MSD", sampler="split", gradient=partial(MSD, sampler=SplitSampler(sigma_min=0.02, sigma_max=TOP))),
    Estimator(
        method="MSD",
        sampler="split, noised centre",
        gradient=partial(MSD, sampler=SplitSampler(sigma_min=0.02, sigma_max=TOP, centre="noised")),
    ),
    Estimator(method="MSD", sampler="euler", gradient=partial(MSD, sampler=EulerSampler(sigma_min=0.02, sigma_max=TOP))),
    Estimator(method="MSD", sampler="reverse process, 16 steps", gradient=partial(MSD, sampler=ReverseSampler(sigma_min=0.02))),
    Estimator(method="SDS", sampler="at level l", gradient=partial(SDS), level="noise"),
    Estimator(method="SJC", sampler="at level l, not variance-reduced", gradient=partial(SDS, variance_reduced=False), level="noise"),
    Estimator(method="SDI", sampler="at level l", gradient=partial(SDI), level="inverted"),
)


@dataclass(frozen=True, kw_only=True)
class LabCell:
    """One estimator at one bandwidth, on the renders of one caption.

    Args:
        caption: with its view.
        estimator: which gradient.
        bandwidth: l, a standard deviation per coordinate of images in [-1, 1].
        points: number of x.
        estimates: independent estimates at each.
        renders: of the density.
        seed: of the estimates.
    """

    caption: str
    estimator: Estimator
    bandwidth: float
    points: int = 6
    estimates: int = 24
    renders: int = RENDERS
    seed: int = 0

    @property
    def title(self) -> str:
        return f"lab {self.estimator.method} {self.estimator.sampler} at {self.bandwidth:g} {self.caption[:24]}"

    def run(self) -> Result:
        prior = IdealSolidsPrior(count=self.renders)
        x = blurred_points(self.caption, self.points)
        density = render_density(*parse(self.caption), self.renders, 0)
        level = torch.tensor(self.bandwidth)
        posterior = density.log_weights(x.flatten(1), level).softmax(1)
        renders = float((-(posterior * posterior.clamp_min(1e-30).log()).sum(1)).exp().median())
        oracle = (x - prior.denoiser([self.caption])(x, level)).flatten(1)
        estimates, calls = self._estimates(prior, x)
        finite = bool(estimates.isfinite().all())
        found = against_oracle(estimates, oracle) if finite else {}
        metrics = {"bandwidth": self.bandwidth, "renders": renders, **found} if finite else None
        row: dict[str, Any] = {"density": "solids-ideal", "denoiser": "ideal", "guidance": "none", "method": self.estimator.method}
        row |= {"row": self.caption, "sampler": self.estimator.sampler, "bandwidth": self.bandwidth, "calls": calls, "metrics": metrics}
        return Result(row | {"loop": f"{self.points} points, {self.estimates} estimates, {self.renders} renders"})

    def _estimates(self, prior: IdealSolidsPrior, x: Tensor) -> tuple[Tensor, float]:
        """(estimates, points, d) independent estimates, and the denoiser calls of one."""
        gradient = self.estimator.build(prior.denoiser([self.caption]), self.bandwidth)
        rng = torch.Generator().manual_seed(self.seed)
        estimate = gradient(x.repeat(self.estimates, 1, 1, 1), progress=0.5, rng=rng)
        return estimate.gradient.reshape(self.estimates, len(x), -1), float(estimate.info["calls"])


def blurred_points(caption: str, count: int) -> Tensor:
    """x at renders of cameras that the density does not hold, blurred by a 4-pixel box: (count, 3, 64, 64) in [-1, 1]."""
    images = true_renders(*parse(caption), count, seed=OTHER_CAMERAS)
    return 2 * interpolate(avg_pool2d(images, 4), scale_factor=4, mode="bilinear") - 1


def cells(settings: Settings) -> list[Cell]:
    captions, bandwidths = (CAPTIONS[:1], BANDWIDTHS[::2]) if settings.quick else (CAPTIONS, BANDWIDTHS)
    size: dict[str, int] = {"points": 2, "estimates": 4, "renders": 64} if settings.quick else {}
    return [
        LabCell(caption=caption, estimator=estimator, bandwidth=level, seed=settings.seed, **size)
        for caption in captions
        for level in bandwidths
        for estimator in ESTIMATORS
    ]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    rows = [result.row for result in results]
    config = {"seed": settings.seed, "quick": settings.quick, "points": rows[0]["loop"]}
    write_results(folder, "lab", rows=rows, config=config, columns=COLUMNS, notes=" ".join((__doc__ or "").split()))
    captions = list(dict.fromkeys(row["row"] for row in rows))
    panels = []
    for metric, label in (("cosine", "cosine with the exact mean shift"), ("relative_error", "relative error of the mean estimate")):
        curves = []
        for estimator in ESTIMATORS[1:]:  # the one-call mean shift is the truth itself
            name = f"{estimator.method}, {estimator.sampler}"
            found = [r for r in rows if (r["method"], r["sampler"], r["row"]) == (estimator.method, estimator.sampler, captions[0])]
            found = [
                r for r in found if r["metrics"] and float(r["metrics"][metric]) < SHOWN
            ]  # an estimator that diverged is in the table alone
            curves.append(Curve(name, [r["bandwidth"] for r in found], [r["metrics"][metric] for r in found]))
        panels.append((captions[0], "bandwidth l", label, curves))
    save_curves(folder / "lab.png", panels, log_x=True)


EXPERIMENT = Experiment(
    name="lab", summary="every gradient against the exact mean shift in image space, 12 288 dimensions", cells=cells, finish=finish
)
