"""Cells that evaluate a gradient at fixed points, without optimisation: its efficiency, and the loss that it implies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeseek.gradients import VSD, Gradient
from modeseek.metrics import log_efficiency
from modeseek.metrics.landscape import integrate
from modeseek.representations.points import grid
from modeseek.reproduction.plane import DenoiserName, DensityName, GuidanceName, Method, denoiser, density
from modeseek.sweeps.cells import Result

ADAPTATIONS = 200  # of VSD's auxiliary network to the points, before its gradient is looked at


def independent(gradient: Gradient, x: Tensor, estimates: int, progress: float, seed: int) -> tuple[Tensor, float]:
    """`estimates` independent estimates at each x: (estimates, batch, *event), and the calls of one of them.

    VSD's auxiliary network, which starts as the prior, is first trained on the points.
    """
    rng = torch.Generator().manual_seed(seed)
    if isinstance(gradient, VSD):
        for _ in range(ADAPTATIONS):
            gradient.adapt(x, rng)
    group = max(1, 8192 // len(x))
    found, calls = [], 0.0
    for start in range(0, estimates, group):
        copies = min(group, estimates - start)
        estimate = gradient(x.repeat(copies, 1), progress=progress, rng=rng)
        found.append(estimate.gradient.reshape(copies, *x.shape))
        calls = float(estimate.info["calls"])
    return torch.cat(found), calls


@dataclass(frozen=True, kw_only=True)
class EfficiencyCell:
    """Table 3: the efficiency of single-sample estimates on a grid of points, in both readings (`modeseek.metrics.efficiency`).

    Estimates are taken at the middle of the schedules (progress 0.5): bandwidth 0.16 for MSD, sigma 2.5 for SDI. The oracle is the true
    density's mean shift at that bandwidth, -m(x) = x - D(x; 0.16).
    """

    density: DensityName
    denoiser: DenoiserName
    method: Method
    points: int = 16
    estimates: int = 256
    seed: int = 0
    progress: float = 0.5
    bandwidth: float = 0.16

    @property
    def title(self) -> str:
        return f"efficiency {self.density} {self.denoiser} {self.method.name} {self.method.row}"

    def run(self) -> Result:
        x = grid(self.points)
        gradient = self.method.build(denoiser(self.density, self.denoiser), self.density, self.denoiser)
        estimates, calls = independent(gradient, x, self.estimates, self.progress, self.seed)
        oracle = x.double() - density(self.density)(x.double(), self.bandwidth)
        metrics = {
            "log_efficiency": log_efficiency(estimates, calls),
            "log_efficiency_oracle": log_efficiency(estimates, calls, oracle=oracle),
        }
        row: dict[str, Any] = {"density": self.density, "denoiser": self.denoiser, "guidance": "none", "method": self.method.name}
        row |= {"row": self.method.row, "sampler": self.method.sampler, "metrics": metrics, "calls": calls}
        return Result(row | {"loop": f"{len(x)} points, {self.estimates} estimates of {self.method.draws} draw"})


@dataclass(frozen=True, kw_only=True)
class LandscapeCell:
    """The loss that a gradient implies over [-1.5, 1.5]^2: its mean field, integrated (`modeseek.metrics.landscape`)."""

    density: DensityName
    denoiser: DenoiserName
    guidance: GuidanceName = "none"
    method: Method
    points: int = 64
    estimates: int = 16
    progress: float = 0.5
    seed: int = 0

    @property
    def title(self) -> str:
        return f"landscape {self.density} {self.denoiser} {self.guidance} {self.method.name} {self.method.row}"

    def run(self) -> Result:
        x = grid(self.points)
        gradient = self.method.build(denoiser(self.density, self.denoiser, self.guidance), self.density, self.denoiser)
        estimates, calls = independent(gradient, x, self.estimates, self.progress, self.seed)
        field = estimates.mean(0).reshape(self.points, self.points, 2)
        landscape = integrate(field, spacing=3.0 / (self.points - 1))
        row: dict[str, Any] = {"density": self.density, "denoiser": self.denoiser, "guidance": self.guidance, "method": self.method.name}
        row |= {"row": self.method.row, "sampler": self.method.sampler, "metrics": {"curl": landscape.curl}, "calls": calls}
        row |= {"loop": f"{len(x)} points, {self.estimates} estimates of {self.method.draws} draws, progress {self.progress}"}
        return Result(row, {"potential": landscape.potential.float()})
