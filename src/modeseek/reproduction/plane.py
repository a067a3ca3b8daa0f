"""What the two-dimensional experiments share: densities, denoisers, methods, and the cell that distils points with them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser
from modeseek.core.errors import NonFiniteError
from modeseek.core.guidance import Guided
from modeseek.core.sampling import ddim
from modeseek.core.schedules import AdaptiveBandwidth, LinearBandwidth, karras, stable_diffusion_levels
from modeseek.densities import EmpiricalDensity, GaussianMixture, fractal, pinwheel, spiral
from modeseek.distillation import distill
from modeseek.gradients import MSD, SDI, SDS, VSD, Estimate, Gradient, NoiseLevels
from modeseek.metrics import mmd, modes_reached, negative_log_likelihood, outlier_rate, precision_recall
from modeseek.priors import EnergyNet, embedded
from modeseek.product.samplers import EulerSampler, ExactSampler, ProximalSampler, SplitSampler
from modeseek.representations import Points
from modeseek.representations.points import grid
from modeseek.sweeps.cells import Result

DensityName = Literal["fractal", "spiral", "pinwheel"]
DenoiserName = Literal["ideal", "learned"]
GuidanceName = Literal["none", "cfg", "autoguidance"]

IDEAL_SAMPLES = 10_000  # data samples behind the ideal denoiser
EVALUATED = 4_000  # generated and true points that the nearest-neighbour metrics compare
TRUE_SETS = 5  # independent sets of true samples over which those metrics are averaged: on collapsed points one set is noisy
SIGMA_MAX = 5.0


@cache
def density(name: DensityName) -> GaussianMixture:
    """The true distribution: the fractal of class A, the spiral or the pinwheel."""
    return {"fractal": fractal, "spiral": spiral, "pinwheel": pinwheel}[name]()


@cache
def learned(name: DensityName) -> EnergyNet:
    """The embedded network of a density."""
    return embedded("fractal-a" if name == "fractal" else name)


def denoiser(name: DensityName, kind: DenoiserName, guidance: GuidanceName = "none") -> Denoiser:
    """The denoiser of a column of the tables; CFG has scale 4 and D_u of both classes, autoguidance scale 3 and a briefly trained net."""
    if kind == "ideal":
        return EmpiricalDensity(density(name).sample(IDEAL_SAMPLES, rng=torch.Generator().manual_seed(0)))
    if guidance == "cfg":
        return Guided(denoiser=learned(name), weaker=embedded("fractal-ab-weak"), scale=4.0)
    if guidance == "autoguidance":
        return Guided(denoiser=learned(name), weaker=embedded("fractal-a-weak"), scale=3.0)
    return learned(name)


# ---------------------------------------------------------------- methods
@dataclass(frozen=True, kw_only=True)
class Method:
    """A row of a table: a gradient with its settings, and the optimiser that follows it.

    Args:
        name: method, as in the paper's tables.
        row: name of the settings, shown in brackets after the method.
        sampler: sampler and schedule in words, for the row.
        gradient: gradient class with all settings but the denoiser bound; None: no gradient, the DDIM reference.
        optimiser: "adam" or "sgd".
        lr: learning rate.
        steps: optimiser steps.
        ideal_lr: rate of the gradient descent that takes the optimiser's place with the ideal denoiser.
    """

    name: str
    row: str
    sampler: str = ""
    gradient: partial[Any] | None = None
    optimiser: str = "adam"
    lr: float = 0.08
    steps: int = 150
    ideal_lr: float = 1.0

    @property
    def label(self) -> str:
        """The row's name in a table."""
        return self.name if self.row == "reference" else f"{self.name} ({self.row})"

    @property
    def draws(self) -> int:
        """Monte-Carlo samples per estimate."""
        return 1 if self.gradient is None else self.gradient.keywords.get("samples", 1)

    def build(self, prior: Denoiser, name: DensityName, kind: DenoiserName) -> Gradient:
        """The gradient on a denoiser; VSD's auxiliary network starts as a copy of the prior's where that is learned."""
        assert self.gradient is not None
        if self.gradient.func is VSD:
            return self.gradient(denoiser=prior, auxiliary=copy.deepcopy(learned(name)) if kind == "learned" else EnergyNet(64))
        return self.gradient(denoiser=prior)


DDIM = Method(name="DDIM", row="reference", sampler="DDIM, 32 steps")


def sds(row: str = "default levels", *, samples: int = 16, levels: NoiseLevels | None = None, **loop: Any) -> Method:
    levels = levels or NoiseLevels()
    return Method(name="SDS", row=row, sampler=_levels(levels), gradient=partial(SDS, samples=samples, levels=levels), **loop)


def vsd(
    row: str = "default levels",
    *,
    samples: int = 16,
    levels: NoiseLevels | None = None,
    learning_rate: float = 1e-4,
    adapt_steps: int = 1,
    **loop: Any,
) -> Method:
    levels = levels or NoiseLevels(weight="dreamfusion")
    bound = partial(VSD, samples=samples, levels=levels, learning_rate=learning_rate, adapt_steps=adapt_steps)
    words = f"{_levels(levels)}, auxiliary rate {learning_rate:g} x {adapt_steps}"
    return Method(name="VSD", row=row, sampler=words, gradient=bound, **loop)


def sdi(row: str = "state at sigma", *, loop: dict[str, Any] | None = None, **settings: Any) -> Method:
    bound = partial(SDI, **settings)
    probe = SDI(denoiser=lambda x, sigma: x, **settings)
    words = f"inversion {probe.steps} steps, sigma {probe.start:g} to {probe.end:g}"
    return Method(name="SDI", row=row, sampler=words, gradient=bound, **(loop or {}))


def msd(row: str, draw: Any, bandwidth: Any, **loop: Any) -> Method:
    kind = {SplitSampler: "split", ExactSampler: "exact", ProximalSampler: "proximal", EulerSampler: "euler"}[type(draw)]
    words = {LinearBandwidth: "linear", AdaptiveBandwidth: "adaptive"}.get(type(bandwidth), "exponential")
    bound = partial(MSD, sampler=draw, bandwidth=bandwidth)
    return Method(name="MSD", row=row, sampler=f"{kind}, {words}", gradient=bound, **loop)


def _levels(levels: NoiseLevels) -> str:
    return f"sigma {levels.distribution} in [{levels.low:g}, {levels.high:g}], weight {levels.weight}"


# The paper's lambda falls linearly from sqrt(0.1) to 0. It writes the kernel exp(-x^2/lambda^2), of standard deviation l = lambda/sqrt(2),
# and its score as that of a Gaussian of standard deviation l = lambda: both readings have a row. The rest of the package follows the score.
MSD_PUBLISHED = msd("as published, l = lambda/sqrt 2", SplitSampler(), LinearBandwidth(start=0.05**0.5), ideal_lr=2.0)
MSD_PUBLISHED_SCORE = msd("as published, l = lambda", SplitSampler(), LinearBandwidth(), ideal_lr=2.0)
MSD_EXACT = msd("exact sampler", ExactSampler(), LinearBandwidth())
MSD_PROXIMAL = msd("proximal sampler", ProximalSampler(), LinearBandwidth())
MSD_ADAPTIVE = msd("adaptive bandwidth", ExactSampler(steps=16), AdaptiveBandwidth(), optimiser="sgd", lr=1.0)

# The paper does not state the noise levels and weights of its baselines in the plane: "default levels" are sigma ~ U[0.002, 5].
# "public code" is SDI as released, in Stable Diffusion's timesteps; "state at sigma" moves the inverted state to the level of the call.
# The best settings that `modeseek run search` found (fractal, learned denoiser), used in every column. The tuning was not
# equal: docs/provenance.md says how.
SDS_BEST = sds("best settings", levels=NoiseLevels(high=0.05, distribution="loguniform", weight="eps"))
VSD_BEST = vsd("best settings", levels=NoiseLevels(high=0.05, distribution="loguniform", weight="x0"))
_TABLE = stable_diffusion_levels().sigmas
SDI_CODED = sdi(
    "public code", start=float(_TABLE[980]), end=float(_TABLE[250]), spacing="timestep", grid="timestep", eta=0.3, as_published=True
)
SDI_BEST = sdi("best settings", start=0.2, spacing="karras", lowest=0.9)

METHODS = [DDIM, sds(), SDS_BEST, vsd(), VSD_BEST, sdi(), SDI_CODED, SDI_BEST]
METHODS += [MSD_PUBLISHED, MSD_PUBLISHED_SCORE, MSD_EXACT, MSD_PROXIMAL, MSD_ADAPTIVE]


class Unweighted:
    """A gradient divided by its weight, x - target, so that one learning rate suits every method: with rate 1 a step ends at the target."""

    def __init__(self, gradient: Gradient) -> None:
        self.gradient = gradient

    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        estimate = self.gradient(x, progress=progress, rng=rng)
        return Estimate(x - estimate.target, estimate.target, estimate.info)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.gradient, name)  # VSD's adapt and state


# ---------------------------------------------------------------- the cell of the tables
@dataclass(frozen=True, kw_only=True)
class SampleCell:
    """Start points on a grid over [-1.5, 1.5]^2 (for DDIM: exact states at sigma = 5), distil them, and score where they end.

    With the ideal denoiser a call costs `IDEAL_SAMPLES` kernel evaluations per point. So, as in the paper, Adam's 150 steps are replaced by
    a few steps of gradient descent at a high rate: `ideal_steps` of x <- x + rate (target - x), from half as many points along a side.
    """

    density: DensityName
    denoiser: DenoiserName
    guidance: GuidanceName = "none"
    method: Method
    points: int = 64
    seed: int = 0
    ideal_steps: int = 20

    @property
    def title(self) -> str:
        return f"{self.density} {self.denoiser} {self.guidance} {self.method.name} {self.method.row}"

    def run(self) -> Result:
        x, calls, note = self._distilled()
        row = {
            "density": self.density,
            "denoiser": self.denoiser,
            "guidance": self.guidance,
            "method": self.method.name,
            "row": self.method.row,
            "sampler": self.method.sampler,
            "loop": note,
            "metrics": score_points(x, self.density) if bool(x.isfinite().all()) else None,
            "calls": calls,
        }
        return Result(row, {"points": x})

    def _distilled(self) -> tuple[Tensor, float, str]:
        prior = denoiser(self.density, self.denoiser, self.guidance)
        rng = torch.Generator().manual_seed(self.seed + 1)
        side = self.points // 2 if self.denoiser == "ideal" else self.points
        count = side**2
        if self.method.gradient is None:
            start = density(self.density).sample(count, sigma=SIGMA_MAX, rng=rng).float()
            return ddim(prior, start, karras(32, sigma_max=SIGMA_MAX)), 32.0, f"{count} samples"
        gradient = self.method.build(prior, self.density, self.denoiser)
        optimiser, lr, steps = self.method.optimiser, self.method.lr, self.method.steps
        if self.denoiser == "ideal":
            gradient = Unweighted(gradient)
            optimiser, lr, steps = "sgd", self.method.ideal_lr, self.ideal_steps
        points = Points(grid(side))
        note = f"{count} points, {steps} {optimiser} steps at {lr:g}, {self.method.draws} draws"
        calls = 0.0
        try:
            for step in distill(points, gradient, steps=steps, optimiser=optimiser, lr=lr, seed=self.seed):
                calls = step.calls
        except NonFiniteError as error:
            return torch.full((count, 2), torch.nan), calls, f"{note}; diverged: {error}"
        return points().detach(), calls, note


@cache
def true_samples(count: int, distribution: GaussianMixture) -> list[Tensor]:
    """`TRUE_SETS` sets of `count` exact samples of a distribution, the same in every cell."""
    return list(distribution.sample(TRUE_SETS * count, rng=torch.Generator().manual_seed(7)).split(count))


@cache
def smoothed_modes(name: DensityName) -> Tensor | None:
    """Modes of the distribution smoothed by 0.02, at least 0.01 apart; None for the spiral, whose ridge has constant height."""
    return None if name == "spiral" else density(name).modes(0.02, merge=0.01)


def score_points(x: Tensor, name: DensityName) -> dict[str, float]:
    """The metrics of the tables: all points for likelihoods and modes, `EVALUATED` random ones for the others."""
    distribution = density(name)
    chosen = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[:EVALUATED]].double()
    sets = true_samples(len(chosen), distribution)
    neighbours = [precision_recall(chosen, true) for true in sets]
    metrics = {
        "nll": negative_log_likelihood(x, distribution),
        **{name: sum(found[name] for found in neighbours) / TRUE_SETS for name in neighbours[0]},
        "mmd_1e4": 1e4 * mmd(chosen.float(), sets[0].float()),
        "outliers": outlier_rate(x, distribution),
    }
    modes = smoothed_modes(name)
    if modes is not None:
        metrics |= {"modes": float(modes_reached(x, modes, radius=0.02)), "modes_of": float(len(modes))}
    return metrics
