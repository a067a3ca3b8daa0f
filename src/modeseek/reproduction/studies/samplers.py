r"""The samplers of the product density at equal denoiser calls, on mixtures in 2, 64 and 1000 dimensions and on learned denoisers.

Mixtures: five rotated Gaussians with the exact denoiser; q(y|x) has a closed form. Half of the points x are y + l n with y ~ p. The other
half lie on the segment between two such points of different components, where q gives both components the same share: there a sampler
has to split its draws. Learned: the networks of the package for the spiral and the pinwheel, at x = y + l n. The network's q has no
closed form; the reference is the ancestral reverse process of the same network with 256 steps.

Per sampler, for many draws at each point: `bias z`, the root mean square over coordinates and points of the error of the mean in standard
errors (1 if unbiased); `bias`, the part of that error which Monte-Carlo noise does not explain, in standard deviations of q; `spread`, the
variance of the draws over that of q; `shares`, half the summed absolute error of the components' shares at the points of the second kind.
Bandwidths are in units of the data's standard deviation per coordinate, d. `exact draws` are draws of the closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted
from modeseek.densities import GaussianMixture
from modeseek.plots import Curve, save_curves
from modeseek.priors import embedded
from modeseek.product.reverse import ReverseSampler
from modeseek.product.samplers import EulerSampler, ExactSampler, ProductSampler, ProximalSampler, SplitSampler
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.studies.calibration import target
from modeseek.reproduction.tables import averaged, write_results
from modeseek.reproduction.zoo_methods import density as plane_density
from modeseek.sweeps.cells import Cell, Result

MIXTURES = {"mixture, 2 d": 2, "mixture, 64 d": 64, "mixture, 1000 d": 1000}
LEARNED = {"spiral": "spiral", "pinwheel": "pinwheel"}
WIDTHS = (0.2, 1.0)  # bandwidths in units of d
CALLS = 16  # of the table
BUDGETS = (8, 16, 32, 64)  # of the figure
SHOWN = ("mixture, 64 d", 1.0)  # the density and width of the figure
LOWEST, HIGHEST = 0.01, 3.0  # of the figure: below, Monte-Carlo noise; above, divergence
REFERENCE_STEPS = 256

SAMPLERS: dict[str, Callable[[int, float], ProductSampler]] = {
    "exact, Heun": lambda calls, std: ExactSampler(steps=calls // 2 + 1),
    "exact, DDIM": lambda calls, std: ExactSampler(steps=calls, solver="ddim"),
    "reverse, d given": lambda calls, std: ReverseSampler(steps=calls, data_std=std),
    "reverse, d = 0": lambda calls, std: ReverseSampler(steps=calls),
    "reverse, Heun": lambda calls, std: ReverseSampler(steps=calls // 2, solver="heun"),
    "proximal": lambda calls, std: ProximalSampler(steps=calls, data_std=std, spread=10.0, sigma_max=20 * std),
    "split": lambda calls, std: SplitSampler(steps=calls, sigma_max=20 * std),
    "split, noised centre": lambda calls, std: SplitSampler(steps=calls, sigma_max=20 * std, centre="noised"),
    "Euler": lambda calls, std: EulerSampler(steps=calls, sigma_max=20 * std),
}
"""Name -> (denoiser calls, d) -> sampler; "reverse, Heun" makes one call less than the number."""


@dataclass(frozen=True)
class Truth:
    """Points x (P, d), the mean and variance of q in each coordinate there, (P, d) each, and how many draws they are estimates from."""

    x: Tensor
    mean: Tensor
    variance: Tensor
    draws: float = float("inf")


@cache
def mixture_truth(name: str, width: float, points: int, seed: int) -> Truth:
    """Points of a mixture, half of them ordinary, half with equal shares of two components, and the closed form there."""
    mixture, std = target(MIXTURES[name])
    rng = torch.Generator().manual_seed(seed)
    level = width * std
    ordinary = mixture.sample(points - points // 2, rng=rng)
    ordinary = ordinary + level * torch.randn(ordinary.shape, dtype=ordinary.dtype, generator=rng)
    x = torch.cat([ordinary, *(balanced_point(mixture, level, rng)[None] for _ in range(points // 2))])
    return Truth(x, mixture(x, level), mixture.product_variance(x, level))


def balanced_point(mixture: GaussianMixture, level: float, rng: torch.Generator) -> Tensor:
    """A point between draws of two components of p_level at which both have the same responsibility, by bisection: (d,)."""
    first, second = torch.randperm(len(mixture.means), generator=rng)[:2].tolist()
    ends = []
    for index in (first, second):
        scaled = torch.randn(mixture.dim, dtype=torch.float64, generator=rng) * (mixture.variances[index] + level**2).sqrt()
        ends.append(mixture.means[index] + mixture.axes[index] @ scaled)
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        shares = mixture.responsibilities((ends[0] + middle * (ends[1] - ends[0]))[None], level)[0]
        low, high = (middle, high) if shares[first] > shares[second] else (low, middle)
    return ends[0] + low * (ends[1] - ends[0])


@cache
def learned_truth(name: str, width: float, points: int, draws: int, seed: int) -> Truth:
    """Points of a density of the plane, and moments of the network's reverse process with many steps."""
    p = plane_density(LEARNED[name])  # type: ignore[arg-type]
    rng = torch.Generator().manual_seed(seed)
    level = width * embedded(name).data_std
    x = p.sample(points, rng=rng)
    x = x + level * torch.randn(x.shape, dtype=x.dtype, generator=rng)
    y = sampled(ReverseSampler(steps=REFERENCE_STEPS), embedded(name), x.float(), level, draws, rng)
    return Truth(x, y.double().mean(1), y.double().var(1), draws)


def sampled(sampler: ProductSampler, denoiser: Any, x: Tensor, level: float, draws: int, rng: torch.Generator) -> Tensor:
    """Draws at each point: (P, draws, d)."""
    centres = x.repeat_interleave(draws, 0)
    noise = torch.randn(centres.shape, dtype=x.dtype, generator=rng)
    return sampler(denoiser, centres, x.new_full((len(centres),), level), noise).reshape(len(x), draws, -1)


def scores(y: Tensor, truth: Truth) -> dict[str, float]:
    """`bias z`, `bias` and `spread` of draws (P, N, d)."""
    y = y.double()
    error = 1 / y.shape[1] + 1 / truth.draws  # of the mean, in variances of q
    z2 = float(((y.mean(1) - truth.mean) ** 2 / (error * truth.variance)).mean())
    spread = (y.var(1).sum(1) / truth.variance.sum(1)).mean()
    return {"bias z": z2**0.5, "bias": (max(0.0, z2 - 1) * error) ** 0.5, "spread": float(spread)}


def share_error(mixture: GaussianMixture, x: Tensor, y: Tensor, level: float) -> float:
    """Total variation distance of the components' shares among draws (P, N, d) from those of q, mean over points.

    A draw counts for the components by their probabilities given it, whose mean over exact draws is the share.
    """
    found = mixture.responsibilities(y.double().flatten(0, 1)).reshape(*y.shape[:2], -1).mean(1)
    return float(0.5 * (found - mixture.responsibilities(x, level)).abs().sum(1).mean())


@dataclass(frozen=True, kw_only=True)
class SamplerCell:
    """One sampler at one budget on one density and width; `sampler` may be "exact draws" where there is a closed form."""

    density: str
    width: float
    sampler: str
    calls: int
    points: int
    draws: int
    seed: int = 0

    @property
    def title(self) -> str:
        return f"sampler {self.sampler}, {self.calls} calls, on {self.density} at {self.width:g} std"

    def run(self) -> Result:
        y, x, truth, level, calls = self._drawn()
        row: dict[str, Any] = {"density": self.density, "denoiser": "learned" if self.density in LEARNED else "exact", "guidance": "none"}
        row |= {"method": self.sampler, "row": f"l = {self.width:g} d", "sampler": f"{self.calls} calls", "budget": self.calls}
        row |= {"width": self.width, "calls": calls, "loop": f"{self.points} points, {self.draws} draws each"}
        if not bool(y.isfinite().all()):
            return Result(row | {"metrics": None})
        metrics = scores(y, truth)
        if self.density in MIXTURES:
            mixture, half = target(MIXTURES[self.density])[0], self.points // 2
            metrics["shares"] = share_error(mixture, x[-half:].double(), y[-half:], level)
        return Result(row | {"metrics": metrics})

    def _drawn(self) -> tuple[Tensor, Tensor, Truth, float, float]:
        """Draws (P, N, d), points, truth, bandwidth and calls; in 1000 dimensions in float32."""
        rng = torch.Generator().manual_seed(100 + self.seed)
        if self.density in LEARNED:
            net = embedded(self.density)
            std, level, counted = net.data_std, self.width * net.data_std, Counted(net)
            truth = learned_truth(self.density, self.width, self.points, 2 * self.draws, self.seed)
            x = truth.x.float()
        else:
            mixture, std = target(MIXTURES[self.density])
            level, counted = self.width * std, Counted(mixture)
            truth = mixture_truth(self.density, self.width, self.points, self.seed)
            x = truth.x.float() if mixture.dim > 100 else truth.x
            if self.sampler == "exact draws":
                y = mixture.sample_product(truth.x.repeat_interleave(self.draws, 0), level, rng=rng)
                return y.reshape(len(x), self.draws, -1), x, truth, level, 0.0
        y = sampled(SAMPLERS[self.sampler](self.calls, std), counted, x, level, self.draws, rng)
        return y, x, truth, level, float(counted.calls)


def cells(settings: Settings) -> list[Cell]:
    found: list[Cell] = []
    for seed in settings.all_seeds:
        for density in (*MIXTURES, *LEARNED):
            large = MIXTURES.get(density, 2)
            points, draws = (4, 200) if large > 100 else (8, 500)
            if settings.quick:
                points, draws = 2, (16 if large > 100 else 100)
            for width in WIDTHS[-1:] if settings.quick else WIDTHS:
                size: dict[str, Any] = {"density": density, "width": width, "points": points, "draws": draws, "seed": seed}
                if density in MIXTURES:
                    found.append(SamplerCell(sampler="exact draws", calls=0, **size))
                budgets = (BUDGETS[:2] if settings.quick else BUDGETS) if (density, width) == SHOWN else (CALLS,)
                found += [SamplerCell(sampler=name, calls=calls, **size) for calls in budgets for name in SAMPLERS]
    return found


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    rows = averaged([result.row for result in results])
    config = {"seed": settings.seed, "seeds": settings.seeds, "quick": settings.quick}
    notes = " ".join((__doc__ or "").split())
    write_results(folder, "samplers", rows=rows, config=config, columns=["bias z", "bias", "spread", "shares"], notes=notes)
    shown = [row for row in rows if (row["density"], row["width"]) == SHOWN and row["metrics"] and row["budget"]]
    panels = []
    for label, measure in (
        ("bias / standard deviation of q", lambda m: m["bias"]),
        ("|spread - 1|", lambda m: abs(m["spread"] - 1)),
        ("error of the shares", lambda m: m["shares"]),
    ):
        curves = []
        for name in SAMPLERS:
            chosen = [row for row in shown if row["method"] == name]
            curves.append(
                Curve(name, [row["budget"] for row in chosen], [min(max(measure(row["metrics"]), LOWEST), HIGHEST) for row in chosen])
            )
        panels.append((f"{SHOWN[0]}, l = {SHOWN[1]:g} d", "denoiser calls per draw", label, curves))
    save_curves(folder / "samplers.png", panels, log_x=True, log_y=True)


EXPERIMENT = Experiment(name="samplers", summary="the samplers of the product density at equal calls", cells=cells, finish=finish)
