"""The trained networks inside the package, one recipe each; `modeseek train NAME` rebuilds any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from modeseek.densities import GaussianMixture, fractal, pinwheel, spiral
from modeseek.errors import InvalidInput
from modeseek.priors.energy import EnergyNet, load_energy_net
from modeseek.priors.training import TrainingConfig

ASSETS = Path(__file__).parent.parent / "assets"


@dataclass(frozen=True)
class Recipe:
    """A density and how its network is trained."""

    density: Callable[[], GaussianMixture]
    config: TrainingConfig


RECIPES = {
    "fractal-a": Recipe(lambda: fractal("A"), TrainingConfig()),
    "fractal-a-weak": Recipe(lambda: fractal("A"), TrainingConfig(hidden=32, iterations=512)),
    "fractal-ab-weak": Recipe(lambda: fractal("AB"), TrainingConfig(hidden=32, iterations=512)),
    "spiral": Recipe(spiral, TrainingConfig()),
    "pinwheel": Recipe(pinwheel, TrainingConfig()),
}
"""Name -> recipe. The weak ones guide `fractal-a`: autoguidance (class A) and classifier-free guidance (both classes)."""


def recipe(name: str) -> Recipe:
    """The recipe called `name`.

    Raises:
        InvalidInput: no such network; the message lists those there are.
    """
    if name not in RECIPES:
        raise InvalidInput(f"no embedded network is called {name!r}: choose {', '.join(RECIPES)}")
    return RECIPES[name]


@cache
def embedded(name: str) -> EnergyNet:
    """The trained network called `name`, frozen: a `Denoiser` over points in R^2.

    Example:
        >>> sum(weight.numel() for weight in embedded("spiral").parameters())
        16641
    """
    recipe(name)
    return load_energy_net(ASSETS / f"{name}.safetensors")
