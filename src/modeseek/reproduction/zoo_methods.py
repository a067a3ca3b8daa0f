r"""The methods of `modeseek run zoo`: every gradient of the package on one prior in one set of units.

A density takes the place of a conditional prior. The null prompt is a Gaussian with its mean and scale, the negative prompt is the density
blurred by 0.1, both in closed form; with a learned denoiser only the condition is learned. All densities have a standard deviation of about
0.5 per coordinate. Levels lie on one time axis u in [0, 1], log sigma from 0.0025 to 1; each method keeps its published schedule on it,
stated there in Stable Diffusion's timesteps / 1000, with the weight 1. There is no guidance scale except where a method has one of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser
from modeseek.core.schedules import AdaptiveBandwidth, ExponentialBandwidth, LinearBandwidth
from modeseek.densities import GaussianMixture, fractal, pinwheel, rotated_mixture, spiral
from modeseek.gradients import (
    CFD,
    CSD,
    DDS,
    DSD,
    HDODE,
    ISM,
    MSD,
    NFSD,
    PDS,
    RFDS,
    SDI,
    SDS,
    SJC,
    VSD,
    Consistent3D,
    Gradient,
    MeanShift,
    NoiseLevels,
    PersistentMSD,
    SDSBridge,
)
from modeseek.priors import EnergyNet, embedded
from modeseek.product.reverse import ReverseSampler
from modeseek.product.samplers import ExactSampler, ProximalSampler, SplitSampler
from modeseek.reproduction.training.energy import TrainingConfig, train

DensityName = Literal["fractal", "spiral", "pinwheel", "mixture-64"]
DENSITIES: tuple[DensityName, ...] = ("fractal", "spiral", "pinwheel", "mixture-64")
AXIS = NoiseLevels(low=0.0025, high=1.0, distribution="loguniform")
GROUPS = ("mean shift", "score distillation", "trajectory", "editing", "reference")
TRAINING = TrainingConfig(hidden=128, iterations=800, batch=512)
"""Of the learned denoiser of the mixture in 64 dimensions, trained once per process."""


@cache
def density(name: DensityName) -> GaussianMixture:
    """The true density."""
    return {"fractal": fractal, "spiral": spiral, "pinwheel": pinwheel, "mixture-64": rotated_mixture}[name]()


@cache
def learned(name: DensityName) -> EnergyNet:
    """The learned denoiser of a density."""
    if name != "mixture-64":
        return embedded("fractal-a" if name == "fractal" else name)
    average = None
    for step in train(density(name), TRAINING):
        average = step.average
    assert average is not None
    return average.frozen()


@dataclass(frozen=True)
class Bench:
    """Inputs of the methods: denoisers of the prompt, the null and the negative prompt; start points and steps of the run."""

    denoiser: Denoiser
    null: Denoiser
    negative: Denoiser
    start: Tensor
    steps: int
    seed: int
    network: EnergyNet | None

    def auxiliary(self) -> EnergyNet:
        """VSD's second network: a copy of the learned prior, or a fresh one."""
        return copy.deepcopy(self.network) if self.network is not None else EnergyNet(64, dim=self.start.shape[1])


def bench(name: DensityName, kind: str, start: Tensor, steps: int, seed: int) -> Bench:
    """The denoisers of a density, "ideal" (closed form) or "learned"."""
    p = density(name)
    mean, covariance = p.moments()
    scale = covariance.diagonal().mean()
    null = GaussianMixture(torch.ones(1), mean[None], scale * torch.eye(p.dim, dtype=torch.float64)[None])
    blurred = GaussianMixture(p.weights, p.means, p.covariances + 0.01 * torch.eye(p.dim, dtype=torch.float64))
    network = learned(name) if kind == "learned" else None
    return Bench(network or p, null, blurred, start, steps, seed, network)


@dataclass(frozen=True)
class ZooMethod:
    """A method: its name in the figure, its group, its settings in words, how it is built, and the optimiser that follows it."""

    name: str
    group: str
    settings: str
    build: Callable[[Bench], Gradient] | None
    optimiser: str = "adam"
    lr: float = 0.08


def span(low: float, high: float, **changes: Any) -> NoiseLevels:
    """The part of the axis between two values of u."""
    ends = AXIS.quantile(torch.tensor([low, high]))
    return replace(AXIS, low=float(ends[0]), high=float(ends[1]), **changes)


def _whole(name: str, settings: str, build: Callable[[Bench], Gradient]) -> ZooMethod:
    return ZooMethod(name, "mean shift", settings + ", whole steps", build, optimiser="sgd", lr=1.0)


def _edit(b: Bench) -> dict[str, Any]:
    return {"denoiser": b.denoiser, "source_denoiser": b.null, "source": b.start}


WIDE, LATE = span(0.02, 0.98), span(0.02, 0.5)
FALLING = ExponentialBandwidth(end=0.005)
SCORE, PATH, EDIT = "score distillation", "trajectory", "editing"

METHODS: tuple[ZooMethod, ...] = (
    ZooMethod("DDIM", "reference", "32 steps from sigma 5", None),
    ZooMethod("SDS", SCORE, "u in [0.02, 0.98]", lambda b: SDS(denoiser=b.denoiser, levels=WIDE)),
    ZooMethod("SDS, low levels", SCORE, "u in [0.02, 0.5]", lambda b: SDS(denoiser=b.denoiser, levels=LATE)),
    ZooMethod(
        "SDS, HiFA", SCORE, "u falls as 0.98 to 0.3, sqrt", lambda b: SDS(denoiser=b.denoiser, levels=span(0.3, 0.98, anneal="sqrt"))
    ),
    ZooMethod("SDS, linear", SCORE, "u falls 0.98 to 0.02", lambda b: SDS(denoiser=b.denoiser, levels=span(0.02, 0.98, anneal="linear"))),
    ZooMethod(
        "SJC, plain",
        SCORE,
        "u in [0.01, 0.97], no variance reduction",
        lambda b: SJC(denoiser=b.denoiser, levels=span(0.01, 0.97), variance_reduced=False),
    ),
    ZooMethod(
        "VSD",
        SCORE,
        "u in [0.02, 0.98], then [0.02, 0.5]; network trained at 1e-3",
        lambda b: VSD(denoiser=b.denoiser, auxiliary=b.auxiliary(), levels=WIDE, late_levels=LATE, learning_rate=1e-3),
    ),
    ZooMethod("CSD", SCORE, "u in [0.02, 0.98], normalised", lambda b: CSD(conditional=b.denoiser, null=b.null, levels=WIDE)),
    ZooMethod(
        "NFSD",
        SCORE,
        "s 7.5, threshold u 0.2",
        lambda b: NFSD(
            conditional=b.denoiser, null=b.null, negative=b.negative, threshold=float(AXIS.quantile(torch.tensor(0.2))), levels=WIDE
        ),
    ),
    ZooMethod(
        "SDS-Bridge",
        SCORE,
        "s 1.5, source the negative prompt from half on",
        lambda b: SDSBridge(conditional=b.denoiser, null=b.null, target=b.denoiser, source=b.negative, scale=1.5, levels=WIDE),
    ),
    ZooMethod("RFDS", SCORE, "t in [0.02, 0.5] of the flow", lambda b: RFDS(denoiser=b.denoiser, levels=replace(AXIS, weight="flow"))),
    ZooMethod(
        "RFDS-Rev",
        SCORE,
        "the same with one inversion step",
        lambda b: RFDS(denoiser=b.denoiser, inversion=b.denoiser, levels=replace(AXIS, weight="flow")),
    ),
    ZooMethod(
        "ISM", PATH, "u in [0.02, 0.5], interval 0.08", lambda b: ISM(denoiser=b.denoiser, null=b.null, levels=replace(AXIS, weight="x0"))
    ),
    ZooMethod("SDI", PATH, "sigma 0.2 to 0.01, lowest 0.9", lambda b: SDI(denoiser=b.denoiser, start=0.2, spacing="karras", lowest=0.9)),
    ZooMethod(
        "Consistent3D",
        PATH,
        "u 0.7 to 0.1, gap 0.1 to 0.3, fixed noise",
        lambda b: Consistent3D(denoiser=b.denoiser, levels=AXIS, noise="fixed", seed=b.seed),
    ),
    ZooMethod(
        "CFD",
        PATH,
        "u falls 1 to 0, fixed noise",
        lambda b: CFD(denoiser=b.denoiser, levels=replace(AXIS, anneal="linear", weight="x0"), seed=b.seed),
    ),
    ZooMethod("DSD", PATH, "u falls 0.98 to 0.32, 10 DDIM steps", lambda b: DSD(denoiser=b.denoiser, levels=AXIS, seed=b.seed)),
    ZooMethod("DDS", EDIT, "from the null prompt; u in [0.05, 0.95]", lambda b: DDS(**_edit(b), levels=span(0.05, 0.95))),
    ZooMethod("PDS", EDIT, "from the null prompt; released coefficients", lambda b: PDS(**_edit(b), timesteps=(21, 400))),
    ZooMethod(
        "HD-ODE",
        "mean shift",
        "l 1 to 0.005, whole steps",
        lambda b: HDODE(denoiser=b.denoiser, bandwidth=ExponentialBandwidth(start=1.0, end=0.005), steps=b.steps),
        "sgd",
        1.0,
    ),
    ZooMethod("mean shift, Adam", "mean shift", "l 0.316 to 0.005", lambda b: MeanShift(denoiser=b.denoiser, bandwidth=FALLING)),
    _whole("mean shift, adaptive", "first 1, then local", lambda b: MeanShift(denoiser=b.denoiser, bandwidth=AdaptiveBandwidth())),
    ZooMethod(
        "MSD, published",
        "mean shift",
        "split sampler, 32 calls, l linear from 0.224",
        lambda b: MSD(denoiser=b.denoiser, sampler=SplitSampler(), bandwidth=LinearBandwidth(start=0.05**0.5)),
    ),
    ZooMethod(
        "MSD, exact",
        "mean shift",
        "exact sampler, 16 calls, l 0.316 to 0.005",
        lambda b: MSD(denoiser=b.denoiser, sampler=ExactSampler(steps=9), bandwidth=FALLING),
    ),
    ZooMethod(
        "MSD, proximal",
        "mean shift",
        "proximal sampler, 16 calls, l 0.316 to 0.005",
        lambda b: MSD(denoiser=b.denoiser, sampler=ProximalSampler(steps=16, spread=10.0), bandwidth=FALLING),
    ),
    _whole(
        "MSD, adaptive",
        "exact sampler, 16 calls, first 1, then local",
        lambda b: MSD(denoiser=b.denoiser, sampler=ExactSampler(steps=9), bandwidth=AdaptiveBandwidth()),
    ),
    _whole(
        "MSD, reverse",
        "reverse process, 16 calls, first 1, then local",
        lambda b: MSD(denoiser=b.denoiser, sampler=ReverseSampler(steps=16), bandwidth=AdaptiveBandwidth()),
    ),
    ZooMethod(
        "MSD, chain",
        "mean shift",
        "persistent, 8 levels, l 0.316 to 0.005",
        lambda b: PersistentMSD(denoiser=b.denoiser, bandwidth=FALLING),
    ),
)
"""In the order of the table."""

BY_NAME = {method.name: method for method in METHODS}
