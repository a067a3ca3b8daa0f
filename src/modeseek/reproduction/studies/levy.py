r"""Denoising of signals with independent increments: samplers of q against exact posteriors, next to DPS and DiffPIR.

The identity-operator part of a benchmark of posterior samplers (Zach et al. 2025, arXiv:2509.12821): signals of 64 samples, sums of
Gaussian (variance 0.25), Laplace (b = 1) or Student-t (3 degrees) increments, in Gaussian noise of standard deviation l, 25 dB below the
median power of the signals. The posterior is the product density q(y|x); its denoiser is exact (`modeseek.densities.levy`).
Bernoulli-Laplace and Cauchy increments, and the learned denoisers of the benchmark, are left out.

`gap`: mean over signals of 10 log10 of the squared error of the mean of the draws over that of the exact posterior mean, in dB (the
benchmark's optimality gap); exact draws have about 10 log10(1 + 1/draws). `interval`: share of samples of the true signals inside the
central 90 % interval of the draws at that sample; `region`: share of true signals inside the 90 % region of highest posterior density;
0.9 each for exact draws. `spread`: variance of the draws over that of q. DPS (Chung et al. 2022, arXiv:2209.14687) and DiffPIR (Zhu et
al. 2023, arXiv:2305.08995) start at the highest level of the denoiser, from x with noise up to it, and take 50 levels; their settings
minimise the error of the mean on other signals, as in the benchmark.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser
from modeseek.core.schedules import karras
from modeseek.densities.levy import GaussianIncrements, LaplaceIncrements, LevySignals, StudentIncrements
from modeseek.product.reverse import ReverseSampler
from modeseek.product.samplers import ExactSampler, ProductSampler, ProximalSampler, SplitSampler
from modeseek.reproduction.experiment import Experiment, Settings
from modeseek.reproduction.tables import averaged, write_results
from modeseek.sweeps.cells import Cell, Result

SIGNALS: dict[str, LevySignals] = {
    "Gaussian": LevySignals(increments=GaussianIncrements(variance=0.25)),
    "Laplace": LevySignals(increments=LaplaceIncrements(b=1.0)),
    "Student-t": LevySignals(increments=StudentIncrements(freedom=3)),
}
DECIBELS = 25.0
DRAWS = 19  # the smallest and the largest bound a central interval of 18/20
RIVAL_LEVELS = 50
VALIDATION_SEED = 9_000  # of the signals on which DPS and DiffPIR are tuned; tests use other ones

GRIDS: dict[str, tuple[tuple[float, ...], ...]] = {
    "DPS": ((0.01,), (0.03,), (0.1,), (0.3,), (1.0,)),  # step
    "DiffPIR": tuple(itertools.product((0.3, 0.7), (0.3, 1.0, 3.0))),  # zeta, lambda
}
Rival = Callable[[Denoiser, Tensor, float, float, torch.Generator], Tensor]


def noise_level(signals: LevySignals) -> float:
    """l: 25 dB below the median power of 10 000 signals."""
    power = (signals.sample(10_000, rng=torch.Generator().manual_seed(1)) ** 2).mean(1).median()
    return float(power.sqrt()) * 10 ** (-DECIBELS / 20)


def dps(step: float) -> Rival:
    """DPS with step size `step`: ancestral steps of the prior, each followed by -step grad |x - D(z)|, as a function of its inputs.

    The gradient is the derivative of D along the residual, by a difference of two calls: the Jacobian of D is a covariance over sigma^2 and
    so symmetric.
    """

    def sample(denoiser: Denoiser, x: Tensor, level: float, top: float, rng: torch.Generator) -> Tensor:
        def move(z: Tensor, sigma: Tensor, following: Tensor, n: Tensor) -> Tensor:
            denoised = denoiser(z, sigma)
            residual = x - denoised
            norm = residual.norm(dim=1, keepdim=True)
            small = 0.03 * sigma * x.shape[1] ** 0.5
            slope = (denoiser(z + small * residual / norm, sigma) - denoised) / small  # J residual / |residual|
            ratio = (following / sigma) ** 2
            return denoised + ratio * (z - denoised) + following * (1 - ratio).sqrt() * n + step * slope

        return descend(x, level, top, rng, move)

    return sample


def diffpir(zeta: float, weight: float) -> Rival:
    """DiffPIR with the share `zeta` of fresh noise and the weight lambda of the prior in its proximal step."""

    def sample(denoiser: Denoiser, x: Tensor, level: float, top: float, rng: torch.Generator) -> Tensor:
        def move(z: Tensor, sigma: Tensor, following: Tensor, n: Tensor) -> Tensor:
            rho = weight * level**2 / sigma**2
            corrected = (x + rho * denoiser(z, sigma)) / (1 + rho)
            predicted = (z - corrected) / sigma
            return corrected + following * (math.sqrt(1 - zeta) * predicted + math.sqrt(zeta) * n)

        return descend(x, level, top, rng, move)

    return sample


def descend(x: Tensor, level: float, top: float, rng: torch.Generator, move: Callable[..., Tensor]) -> Tensor:
    """States from x, noised up to `top`, down Karras' levels by `move`."""
    levels = karras(RIVAL_LEVELS, sigma_min=0.05 * level, sigma_max=top).to(x)
    z = x + max(top**2 - level**2, 0.0) ** 0.5 * torch.randn(x.shape, dtype=x.dtype, generator=rng)
    for sigma, following in itertools.pairwise(levels):
        z = move(z, sigma, following, torch.randn(x.shape, dtype=x.dtype, generator=rng))
    return z


def samplers(level: float, top: float, std: float) -> dict[str, ProductSampler]:
    """The samplers of q; those that start at a fixed level start at the denoiser's highest."""
    return {
        "exact, Heun, 16 calls": ExactSampler(steps=9),
        "exact, Heun, 32 calls": ExactSampler(),
        "reverse, d given": ReverseSampler(steps=16, data_std=std),
        "reverse, d = 0": ReverseSampler(steps=16),
        "proximal": ProximalSampler(steps=16, data_std=std, spread=10.0, sigma_max=top, sigma_min=0.05 * level),
        "split": SplitSampler(steps=16, sigma_max=top),
    }


METHODS = ("exact draws", *samplers(1.0, 2.0, 1.0))


@dataclass(frozen=True, kw_only=True)
class LevyCell:
    """One sampler of q, or exact draws, on the noisy signals of one kind of increment."""

    increments: str
    method: str
    items: int = 16
    seed: int = 0

    @property
    def title(self) -> str:
        return f"levy {self.increments} {self.method}"

    def run(self) -> Result:
        signals = SIGNALS[self.increments]
        level, top = noise_level(signals), signals.increments.scale
        y, x = noisy(signals, self.items, level, self.seed)
        rng = torch.Generator().manual_seed(100 + self.seed)
        counted = Counted(signals)
        draws, settings = self._draws(signals, counted, x.repeat(DRAWS, 1), level, top, rng)
        row = {"density": f"{self.increments} increments", "denoiser": "exact", "guidance": "none", "method": self.method}
        row |= {"row": settings, "sampler": f"l = {level:.3f}", "loop": f"{self.items} signals, {DRAWS} draws each"}
        return Result(row | {"metrics": scores(signals, y, x, draws.reshape(DRAWS, *x.shape), level), "calls": float(counted.calls)})

    def _draws(
        self, signals: LevySignals, denoiser: Denoiser, centres: Tensor, level: float, top: float, rng: torch.Generator
    ) -> tuple[Tensor, str]:
        """One draw at each centre, and settings to show."""
        if self.method == "exact draws":
            return signals.sample_product(centres, level, rng=rng), ""
        std = float(signals.sample(10_000, rng=torch.Generator().manual_seed(1)).std())
        noise = torch.randn(centres.shape, dtype=centres.dtype, generator=rng)
        return samplers(level, top, std)[self.method](denoiser, centres, centres.new_full((len(centres),), level), noise), ""


@dataclass(frozen=True, kw_only=True)
class RivalCell(LevyCell):
    """DPS or DiffPIR with the settings of `grid` whose mean of 9 draws has the smallest squared error on validation signals."""

    grid: tuple[tuple[float, ...], ...]
    validation: int = 8

    def _draws(
        self, signals: LevySignals, denoiser: Denoiser, centres: Tensor, level: float, top: float, rng: torch.Generator
    ) -> tuple[Tensor, str]:
        build = dps if self.method == "DPS" else diffpir
        y, x = noisy(signals, self.validation, level, VALIDATION_SEED)
        errors = []
        for settings in self.grid:
            found = build(*settings)(signals, x.repeat(9, 1), level, top, torch.Generator().manual_seed(7)).reshape(9, *x.shape)
            errors.append(float(((found.mean(0) - y) ** 2).mean().nan_to_num(nan=math.inf)))
        best = self.grid[errors.index(min(errors))]
        names = ("step",) if self.method == "DPS" else ("zeta", "lambda")
        words = ", ".join(f"{name} {value:g}" for name, value in zip(names, best, strict=True))
        return build(*best)(denoiser, centres, level, top, rng), words


def noisy(signals: LevySignals, count: int, level: float, seed: int) -> tuple[Tensor, Tensor]:
    """Signals and their noisy observations: (count, L) each."""
    rng = torch.Generator().manual_seed(10 + seed)
    y = signals.sample(count, rng=rng)
    return y, y + level * torch.randn(y.shape, dtype=y.dtype, generator=rng)


def scores(signals: LevySignals, y: Tensor, x: Tensor, draws: Tensor, level: float) -> dict[str, float]:
    """The numbers of the module's docstring for draws (DRAWS, n, L) at x, with the true signals y, (n, L) each."""
    best = ((signals(x, level) - y) ** 2).mean(1)
    gap = 10 * (((draws.mean(0) - y) ** 2).mean(1) / best).log10()

    def log_posterior(s: Tensor) -> Tensor:
        return signals.log_prob(s) - 0.5 * ((s - x) ** 2).sum(1) / level**2

    below = sum((log_posterior(one) < log_posterior(y)).double() for one in draws)
    spread = (draws.var(0) / signals.variance(x, level)).mean()
    return {
        "gap": float(gap.mean()),
        "interval": float(((draws.amin(0) < y) & (y < draws.amax(0))).double().mean()),
        "region": fmean((below >= 0.1 * (DRAWS + 1)).double().tolist()),  # type: ignore[union-attr]
        "spread": float(spread),
    }


def cells(settings: Settings) -> list[Cell]:
    items, validation = (2, 1) if settings.quick else (16, 8)
    found: list[Cell] = []
    for seed in settings.all_seeds:
        for name in SIGNALS:
            found += [LevyCell(increments=name, method=method, items=items, seed=seed) for method in METHODS]
            found += [
                RivalCell(
                    increments=name,
                    method=method,
                    items=items,
                    validation=validation,
                    grid=grid[:2] if settings.quick else grid,
                    seed=seed,
                )
                for method, grid in GRIDS.items()
            ]
    return found


def finish(folder: Path, settings: Settings, cells: Sequence[Cell], results: Sequence[Result]) -> None:
    rows = averaged([result.row for result in results], keys=("density", "method"))
    config = {"seed": settings.seed, "seeds": settings.seeds, "quick": settings.quick}
    notes = " ".join((__doc__ or "").split())
    write_results(folder, "levy", rows=rows, config=config, columns=["gap", "interval", "region", "spread"], notes=notes)


EXPERIMENT = Experiment(
    name="levy", summary="denoising of signals with known posteriors, next to DPS and DiffPIR", cells=cells, finish=finish
)
