r"""The Monte-Carlo average of stochastic gradients over noise levels and noise, weighted by level.

    g = E_{sigma, n}[ w(sigma)/sigma  r(x, n, sigma) ],    target = x - g / E[w/sigma]

r is a residual in the units of x, such as x - D(x + sigma n; sigma). Each estimator defines only r.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from modeseek.core.denoiser import per_item
from modeseek.gradients.base import NoisePolicy, generator_for, noise_like, repeated
from modeseek.gradients.noise_levels import NoiseLevels

ResidualAt = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x, n, sigma) -> r, for `copies` x batch items one after another: (copies * batch, *event) each, sigma (copies * batch,)."""


class Stochastic(Protocol):
    """The settings of a Monte-Carlo gradient; an estimator implements this protocol and passes itself.

    Attributes:
        levels: distribution, schedule and weight of sigma.
        samples: draws of (sigma, n) per estimate.
        noise: "fresh", "fixed" per object, or "shared" by all objects; sigma is fresh unless it is annealed.
        seed: of noise that is not fresh.
    """

    @property
    def levels(self) -> NoiseLevels: ...
    @property
    def samples(self) -> int: ...
    @property
    def noise(self) -> NoisePolicy: ...
    @property
    def seed(self) -> int: ...


def monte_carlo(
    settings: Stochastic, x: Tensor, residual_at: ResidualAt, *, progress: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Gradient and target of a weighted residual averaged over `settings.samples` draws of (sigma, n).

    Args:
        settings: levels, samples and noise policy.
        x: (batch, *event).
        residual_at: the residual, called on bounded groups of copies of the batch.
        progress: in [0, 1].
        rng: generator of all randomness but noise that is not fresh.

    Returns:
        gradient and target, (batch, *event) each.
    """
    noise_rng = generator_for(settings.noise, settings.seed, rng)
    total = torch.zeros_like(x)
    total_weight = x.new_zeros(len(x))
    for copies_of_x, copies in repeated(x, settings.samples):
        sigma = settings.levels.sample(len(copies_of_x), rng, progress).to(x)
        n = noise_like(x, copies, settings.noise, noise_rng)
        weight = settings.levels.weigh(sigma) / sigma
        found = per_item(weight, x) * residual_at(copies_of_x, n, sigma)
        total += found.reshape(copies, *x.shape).sum(0)
        total_weight += weight.reshape(copies, -1).sum(0)
    return total / settings.samples, x - total / per_item(total_weight, x)
