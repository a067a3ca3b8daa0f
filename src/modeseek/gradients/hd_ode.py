r"""The high-density ODE (Karczewski et al. 2024, arXiv:2411.01293, Eq. 18): a mode of p(y | x_sigma = x), without a kernel or noise.

    dx/dsigma = 2 (x - D(x; sigma))/sigma,   discretised exactly for constant D:   x' = D + (sigma'/sigma)^2 (x - D)

Started at the state x of level l it approaches a mode of the product density q(y|x) that `MSD` samples, and for Gaussian data it ends at
the mean of q exactly. As a gradient it takes one step per optimiser step: the level is the bandwidth l, and l' the bandwidth one step
later, so that full steps (`optimiser="sgd"`, learning rate 1) follow the ODE. The state has no noise, although the network expects some.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser, per_item
from modeseek.core.errors import InvalidInput
from modeseek.core.schedules import Bandwidth, ExponentialBandwidth
from modeseek.gradients.base import Estimate, check_point, in_full_precision, residual


@dataclass(frozen=True, kw_only=True)
class HDODE:
    """One step of the high-density ODE; a deterministic `Gradient` of one denoiser call.

    Args:
        denoiser: D of the (guided) prior.
        bandwidth: level of each step, a standard deviation per coordinate. It must not depend on x.
        steps: optimiser steps of the run, which decide the next level. The step at progress 1 goes to level 0, where x' = D.

    Raises:
        InvalidInput: fewer than 2 steps.

    Example:
        >>> normal = lambda x, sigma: x / (1 + sigma.reshape(-1, 1) ** 2)  # p = N(0, 1)
        >>> ode = HDODE(denoiser=normal, bandwidth=ExponentialBandwidth(start=1.0, end=0.5), steps=2)
        >>> ode(torch.tensor([[2.0]]), progress=0.0, rng=torch.Generator()).target  # 1 + (0.5 / 1)^2 (2 - 1)
        tensor([[1.2500]])
    """

    denoiser: Denoiser
    bandwidth: Bandwidth = field(default_factory=ExponentialBandwidth)
    steps: int = 150

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise InvalidInput(f"the high-density ODE needs at least 2 steps, got {self.steps}")

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        counted = Counted(self.denoiser)
        bandwidth = self.bandwidth(progress, x, counted)
        last = progress >= 1 - 0.5 / (self.steps - 1)
        following = 0 * bandwidth if last else self.bandwidth(progress + 1 / (self.steps - 1), x, counted)
        denoised = counted(x, bandwidth)
        target = denoised + per_item((following / bandwidth) ** 2, x) * (x - denoised)
        info: dict[str, Tensor | float] = {"calls": float(counted.calls), "bandwidth": bandwidth, "residual": residual(x, target)}
        return Estimate(x - target, target, info)
