r"""Training of the learned 2-D denoisers (Karras et al. 2024, toy example), deterministic and resumable.

Each iteration draws fresh samples y and levels ln sigma ~ N(-2.3, 1.5^2) and regresses the exact score of the noised density:

    loss = sigma^2 mean_dims (score_net(y + sigma n) - score(y + sigma n))^2

with Adam(0.9, 0.99), rate 1e-2 / sqrt(max(i/512, 1)), and a power-function average of the weights of relative width 0.010
(Karras et al. 2024b, Eq. 121 with gamma = 96.99). The draws of iteration i are seeded by (seed, i), so that a run killed and
resumed ends at the same weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from modeseek.core.errors import WeightsError
from modeseek.core.files import read_state, write_state
from modeseek.core.identity import described, digest
from modeseek.core.interrupts import deferred, leave_if_requested, requested
from modeseek.densities import GaussianMixture, fractal, pinwheel, spiral
from modeseek.priors.embedded import check_name
from modeseek.priors.energy import EnergyNet

EMA_EXPONENT = 96.99
CHECKPOINT_KIND = "energy-net-training"


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of one training run; the defaults are the published ones."""

    hidden: int = 64
    iterations: int = 4096
    batch: int = 4096
    learning_rate: float = 1e-2
    decay_after: int = 512
    log_sigma_mean: float = -2.3
    log_sigma_std: float = 1.5
    seed: int = 0


@dataclass(frozen=True)
class TrainingStep:
    """The state after an iteration: its index (from 1), its loss, and the averaged network."""

    iteration: int
    loss: float
    average: EnergyNet


def train(density: GaussianMixture, config: TrainingConfig, *, checkpoint: Path | None = None, every: int = 64) -> Iterator[TrainingStep]:
    """Train an energy network on a known density; yields after each iteration, the last average is the result.

    Args:
        density: the distribution to learn; samples and exact scores come from it.
        config: the recipe.
        checkpoint: file in which weights, optimiser and average are kept every `every` iterations and at the end, and from which an
            interrupted run resumes.

    Raises:
        WeightsError: the checkpoint belongs to another recipe.
    """
    with deferred():
        yield from _steps(density, config, checkpoint, every)


def _steps(density: GaussianMixture, config: TrainingConfig, checkpoint: Path | None, every: int) -> Iterator[TrainingStep]:
    net = EnergyNet(config.hidden, dim=density.dim, seed=config.seed).train()
    average = copy.deepcopy(net).eval()
    optimiser = torch.optim.Adam(net.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
    start, identity = 0, f"{config!r} {digest(described(density))}"
    if checkpoint is not None and checkpoint.exists():
        start = _restore(checkpoint, identity, net, average, optimiser)
    if start == config.iterations:
        yield TrainingStep(start, math.nan, average)  # finished before: the checkpoint holds the result
    for iteration in range(start, config.iterations):
        rng = torch.Generator().manual_seed(config.seed * 1_000_003 + iteration)
        clean = density.sample(config.batch, rng=rng).float()
        sigma = (config.log_sigma_mean + config.log_sigma_std * torch.randn(config.batch, generator=rng)).exp()
        noisy = clean + sigma[:, None] * torch.randn(clean.shape, generator=rng)
        error = net.score(noisy, sigma, create_graph=True) - density.score(noisy, sigma)
        loss = (sigma[:, None] ** 2 * error**2).mean()
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate / max(iteration / config.decay_after, 1) ** 0.5
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        net.normalise_()
        keep = 0.0 if iteration == 0 else (1 - 1 / (iteration + 1)) ** (EMA_EXPONENT + 1)
        with torch.no_grad():
            for target, source in zip(average.parameters(), net.parameters(), strict=True):
                target.lerp_(source, 1 - keep)
        if checkpoint is not None and ((iteration + 1) % every == 0 or iteration + 1 == config.iterations or requested()):
            state = {"net": net.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
            write_state(checkpoint, state | {"done": iteration + 1, "config": identity}, kind=CHECKPOINT_KIND)
        leave_if_requested()
        yield TrainingStep(iteration + 1, float(loss.detach()), average)


def _restore(path: Path, identity: str, net: EnergyNet, average: EnergyNet, optimiser: torch.optim.Optimizer) -> int:
    state = read_state(path, kind=CHECKPOINT_KIND)
    if state.get("config") != identity:
        raise WeightsError(f"{path} is of another density or of other settings ({state.get('config')}); remove it to start again")
    try:
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        return state["done"]
    except (KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} does not fit this network ({str(error).splitlines()[0]}); remove it to start again") from error


@dataclass(frozen=True)
class TrainingRecipe:
    """A density, and the settings with which its network is trained."""

    density: Callable[[], GaussianMixture]
    config: TrainingConfig


RECIPES = {
    "fractal-a": TrainingRecipe(lambda: fractal("A"), TrainingConfig()),
    "fractal-a-weak": TrainingRecipe(lambda: fractal("A"), TrainingConfig(hidden=32, iterations=512)),
    "fractal-ab-weak": TrainingRecipe(lambda: fractal("AB"), TrainingConfig(hidden=32, iterations=512)),
    "spiral": TrainingRecipe(spiral, TrainingConfig()),
    "pinwheel": TrainingRecipe(pinwheel, TrainingConfig()),
}


def recipe(name: str) -> TrainingRecipe:
    """The recipe of the embedded network called `name`.

    Raises:
        InvalidInput: no network has that name.
    """
    return RECIPES[check_name(name)]
