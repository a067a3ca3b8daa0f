r"""The exact mean shift in one call: y = D(x; l).

    g = x - D(x; l) = -l^2 grad log p_l(x)                 (Tweedie; Cheng 1995 for sample sets)

This is the mean of the product density q(y|x) that `MSD` estimates from draws, so it has no variance and costs one call. With a learned
network it evaluates D at an x that has less noise than the level l implies; `MSD` with a sampler that noises its states does not. Fixed
points: stationary points of p smoothed by l. With full steps (`optimiser="sgd"`, learning rate 1) it is the mean-shift iteration
x <- E[y | x], which climbs log p_l at every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from modeseek.core.denoiser import Counted, Denoiser
from modeseek.core.schedules import Bandwidth, LinearBandwidth
from modeseek.gradients.base import Estimate, check_point, in_full_precision, residual


@dataclass(frozen=True, kw_only=True)
class MeanShift:
    """One-call mean shift; a deterministic `Gradient` of one denoiser call, and those of an adaptive bandwidth.

    Args:
        denoiser: D of the (guided) prior.
        bandwidth: schedule l(progress, x, denoiser) -> (batch,), a standard deviation per coordinate.

    Example:
        >>> normal = lambda x, sigma: x / (1 + sigma.reshape(-1, 1) ** 2)  # p = N(0, 1)
        >>> shift = MeanShift(denoiser=normal, bandwidth=LinearBandwidth(start=1.0, end=1.0))
        >>> shift(torch.tensor([[2.0]]), progress=0.0, rng=torch.Generator()).target
        tensor([[1.]])
    """

    denoiser: Denoiser
    bandwidth: Bandwidth = field(default_factory=LinearBandwidth)

    @in_full_precision
    @torch.no_grad()
    def __call__(self, x: Tensor, *, progress: float, rng: torch.Generator) -> Estimate:
        check_point(x, progress)
        counted = Counted(self.denoiser)
        bandwidth = self.bandwidth(progress, x, counted)
        target = counted(x, bandwidth)
        info: dict[str, Tensor | float] = {"calls": float(counted.calls), "bandwidth": bandwidth, "residual": residual(x, target)}
        return Estimate(x - target, target, info)
