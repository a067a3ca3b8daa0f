"""The small two-dimensional networks of the package; `modeseek train NAME` retrains one of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from modeseek.core.errors import InvalidInput
from modeseek.priors.energy import EnergyNet, load_energy_net

ASSETS = Path(__file__).parent.parent / "assets"
NAMES = ("fractal-a", "fractal-a-weak", "fractal-ab-weak", "spiral", "pinwheel")
"""The weak ones guide `fractal-a`: autoguidance (class A) and classifier-free guidance (both classes)."""


def check_name(name: str) -> str:
    """The name itself.

    Raises:
        InvalidInput: no network has it; the message lists the names.
    """
    if name not in NAMES:
        raise InvalidInput(f"no embedded network is called {name!r}: choose {', '.join(NAMES)}")
    return name


@cache
def embedded(name: str) -> EnergyNet:
    """Load the embedded network called `name`, frozen: a `Denoiser` of points in R^2.

    Example:
        >>> sum(weight.numel() for weight in embedded("spiral").parameters())
        16641
    """
    return load_energy_net(ASSETS / f"{check_name(name)}.safetensors")
