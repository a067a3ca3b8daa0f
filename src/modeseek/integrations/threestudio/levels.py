"""Timesteps that follow threestudio's schedules: the range of random levels and SDI's level, at the current step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from modeseek.gradients import SDI, SDS, VSD, NoiseLevels


@dataclass(frozen=True, kw_only=True)
class SteppedLevels(NoiseLevels):
    """Noise levels whose range of timesteps is looked up at each call.

    Args:
        timesteps: returns the current (highest, lowest) timestep.
    """

    timesteps: Callable[[], tuple[int, int]] = field(default=lambda: (980, 20), repr=False, compare=False)

    def sample(self, count: int, rng: torch.Generator, *arguments: Any, **options: Any) -> Tensor:
        """`count` levels, uniform over the timesteps of the current range."""
        assert self.table is not None
        high, low = self.timesteps()
        sigmas = self.table.sigmas
        settings = {name: getattr(self, name) for name in ("distribution", "weight", "table")}
        now = NoiseLevels(low=float(sigmas[min(low, high)]), high=float(sigmas[high]), **settings)
        return now.sample(count, rng, *arguments, **options)


def with_stepped_levels(gradient: Any, timesteps: Callable[[], tuple[int, int]]) -> Any:
    """The gradient with its random levels taken from `timesteps`; VSD's own lower levels late in a run are then off."""
    if not isinstance(gradient, SDS | VSD):
        return gradient
    old = gradient.levels
    settings = {name: getattr(old, name) for name in ("low", "high", "distribution", "weight", "table")}
    levels = SteppedLevels(**settings, timesteps=timesteps)
    if isinstance(gradient, SDS):
        return replace(gradient, levels=levels)
    changes = {"levels": levels, "late_levels": None}
    for name, value in changes.items():  # in place: a copy would start another optimiser
        object.__setattr__(gradient, name, value)
    return gradient


def sdi_at(gradient: SDI, t: int) -> SDI:
    """SDI at one timestep whatever the progress."""
    sigma = float(gradient.table.sigmas[t])
    return replace(gradient, start=sigma, end=sigma)
