r"""A benchmark of gradient estimators against the exact mean shift $m(x) = D(x; \ell) - x$, with exact denoisers in 2, 16 and 64
dimensions.

Densities: the fractal, and mixtures of five rotated Gaussians; l is given in units of the data's standard deviation per coordinate, d.
Points are draws of the data + 0.2 d n. Each estimator is called at noise level or bandwidth l, one sample per estimate; no estimator is
given m. Per estimator: `slope`, the mean estimate projected on m (1 if unbiased), and its distance from 1 in standard errors; `bias` and
`cosine` of the mean estimate (medians over points; both include the Monte-Carlo error of the mean); `deviation` of one estimate over |m|;
`efficiency`, Eq. 17 of the paper against m after the best common scaling, natural logarithm.

Weights are those for which an estimate is x - target. VSD's network (`EnergyNet`) is trained for 200 steps on the points first. Left out:
methods that need a second condition or a source (CSD, NFSD, SDS-Bridge, DDS, PDS), DSD, which is 0 without guidance, RFDS, which is SDS at
these weights, the gradient of a noise (iRFDS), and the chain of `PersistentMSD`, whose estimates are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modeseek.core.denoiser import Denoiser
from modeseek.core.schedules import ExponentialBandwidth
from modeseek.densities import GaussianMixture, fractal
from modeseek.gradients import CFD, HDODE, ISM, MSD, SDI, SDS, SJC, VSD, Consistent3D, Gradient, MeanShift, NoiseLevels
from modeseek.metrics import against_oracle, log_efficiency
from modeseek.plots import Curve, save_curves
from modeseek.priors import EnergyNet
from modeseek.product.reverse import ReverseSampler
from modeseek.product.samplers import EulerSampler, ExactSampler, ProximalSampler, SplitSampler
from modeseek.reproduction.estimator_cells import independent
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.studies.calibration import target
from modeseek.reproduction.tables import averaged, label_of, write_results
from modeseek.sweeps.cells import Cell, Result

DENSITIES = ("fractal", "mixture, 2 d", "mixture, 16 d", "mixture, 64 d")
WIDTHS = (0.05, 0.2, 1.0)  # l in units of d
SHOWN = 0.2  # the width in the figure
LOWEST = 1e-3  # smallest bias and deviation in the figure, whose axes are logarithmic
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#ff7f0e")


def density_of(name: str) -> tuple[GaussianMixture, float]:
    """A density and its standard deviation per coordinate."""
    if name != "fractal":
        return target(int(name.split()[1]))
    mixture = fractal()
    return mixture, float((mixture.moments()[1].trace() / mixture.dim).sqrt())


def estimators(level: float, std: float) -> dict[tuple[str, str], partial[Any]]:
    """Every estimator at one noise level or bandwidth: (method, settings) -> the gradient with all but its denoiser bound."""
    constant = ExponentialBandwidth(start=level, end=level)
    at = NoiseLevels(low=level, high=level, weight="x0")
    below = NoiseLevels(low=level / 10, high=level, distribution="loguniform", weight="x0")
    top = 20 * std
    samplers: dict[str, Any] = {
        "exact": ExactSampler(),
        "proximal": ProximalSampler(data_std=std, sigma_max=top),
        "reverse, ancestral": ReverseSampler(steps=32, data_std=std),
        "reverse, heun": ReverseSampler(steps=16, solver="heun", data_std=std),
        "split": SplitSampler(sigma_max=top),
        "split, noised centre": SplitSampler(sigma_max=top, centre="noised"),
        "split, inverted centre": SplitSampler(sigma_max=top, centre="inverted"),
        "euler": EulerSampler(sigma_max=top),
    }
    return {
        ("mean shift", "one call"): partial(MeanShift, bandwidth=constant),
        ("HD-ODE", ""): partial(HDODE, bandwidth=ExponentialBandwidth(start=2 * level, end=level / 2)),
        **{("MSD", name): partial(MSD, sampler=sampler, bandwidth=constant) for name, sampler in samplers.items()},
        ("SDS", ""): partial(SDS, levels=at),
        ("SJC", "without variance reduction"): partial(sjc, levels=at),
        ("VSD", ""): partial(VSD, levels=at),
        ("SDI", ""): partial(SDI, start=1.001 * level, end=0.999 * level),
        ("ISM", ""): partial(ism, levels=below, span=(0.999, 1.0), warm=1.0),
        ("CFD", ""): partial(CFD, levels=at),
        ("Consistent3D", ""): partial(Consistent3D, levels=below, span=(0.0, 1.0), anneal=(0.8, 0.8), gap=(0.2, 0.2), noise="fresh"),
    }


def sjc(*, denoiser: Denoiser, levels: NoiseLevels) -> SDS:
    """SJC's first form at weight sigma."""
    return SDS(denoiser=denoiser, levels=levels, variance_reduced=SJC(denoiser=denoiser, variance_reduced=False).variance_reduced)


def ism(*, denoiser: Denoiser, **settings: Any) -> ISM:
    """ISM without a condition: the null denoiser is the prior's."""
    return ISM(denoiser=denoiser, null=denoiser, **settings)


@dataclass(frozen=True, kw_only=True)
class OracleCell:
    """One estimator on one density at one width."""

    density: str
    method: str
    settings: str
    width: float
    points: int = 16
    estimates: int = 64
    seed: int = 0

    @property
    def title(self) -> str:
        return f"oracle {self.method} {self.settings} on {self.density} at {self.width:g} std"

    def run(self) -> Result:
        mixture, std = density_of(self.density)
        level, rng = self.width * std, torch.Generator().manual_seed(self.seed)
        x = mixture.sample(self.points, rng=rng)
        x = (x + 0.2 * std * torch.randn(x.shape, dtype=x.dtype, generator=rng)).float()
        oracle = x.double() - mixture(x.double(), level)
        bound = estimators(level, std)[self.method, self.settings]
        extra = {"auxiliary": EnergyNet(64, dim=mixture.dim, data_std=std)} if bound.func is VSD else {}
        gradient: Gradient = bound(denoiser=mixture, **extra)
        estimates, calls = independent(gradient, x, self.estimates, 0.5, self.seed)
        row: dict[str, Any] = {"density": self.density, "denoiser": f"exact, l = {self.width:g} d", "guidance": "none"}
        row |= {"method": self.method, "row": self.settings, "width": self.width}
        metrics = None
        if bool(estimates.isfinite().all()):
            found = against_oracle(estimates, oracle)
            metrics = {"slope": found["slope"], "slope z": found["slope_z"], "cosine": found["cosine"], "bias": found["relative_error"]}
            metrics |= {"deviation": found["spread"], "efficiency": log_efficiency(estimates, calls, oracle=oracle)}
        return Result(row | {"metrics": metrics, "calls": calls, "loop": f"{len(x)} points, {self.estimates} estimates"})


def cells(settings: Settings) -> list[Cell]:
    points, estimates = (8, 16) if settings.quick else (16, 64)
    return [
        OracleCell(density=density, method=method, settings=row, width=width, points=points, estimates=estimates, seed=seed)
        for seed in settings.all_seeds
        for density in DENSITIES
        for width in WIDTHS
        for method, row in estimators(1.0, 1.0)
    ]


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    rows = averaged([result.row for result in results])
    config = {"seed": settings.seed, "seeds": settings.seeds, "quick": settings.quick}
    columns = ["slope", "slope z", "cosine", "bias", "deviation", "efficiency"]
    write_results(folder, "oracle", rows=rows, config=config, columns=columns, notes=" ".join((__doc__ or "").split()))
    names = list(dict.fromkeys(label_of(row) for row in rows))
    panels = []
    for density in DENSITIES:
        curves = []
        for index, name in enumerate(names):
            found = [row["metrics"] for row in rows if (row["density"], row["width"], label_of(row)) == (density, SHOWN, name)]
            shown = [one for one in found if one]
            style = {"colour": COLOURS[index % len(COLOURS)], "marker": "os^"[index // len(COLOURS)]}
            x, y = ([max(one[key], LOWEST) for one in shown] for key in ("bias", "deviation"))
            curves.append(Curve(name, x, y, dots=True, **style))
        panels.append((f"{density}, l = {SHOWN:g} d", "bias of the mean estimate / |m|", "deviation of one estimate / |m|", curves))
    save_curves(folder / "oracle.png", panels, log_x=True, log_y=True)


EXPERIMENT = Experiment(name="oracle", summary="benchmark of gradient estimators against the exact mean shift", cells=cells, finish=finish)
