r"""Noise levels of a sampler, and bandwidths over the progress of an optimisation.

Noise levels: `karras` (Karras et al. 2022, Eq. 5) and `loglinear`; both descend from sigma_max to sigma_min and end in 0.
Bandwidths are called as `bandwidth(progress, x, denoiser) -> (batch,)`, progress in [0, 1]; the paper decays linearly from
sqrt(0.1) ("0.316"). Only `AdaptiveBandwidth` depends on the points and calls the denoiser.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser, DiscreteLevels
from modeseek.core.errors import InvalidInput


def karras(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 5.0, rho: float = 7.0, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""(steps + 1,) levels, the last 0:
    $\sigma_i = (\sigma_{max}^{1/\rho} + \tfrac{i}{N-1}(\sigma_{min}^{1/\rho} - \sigma_{max}^{1/\rho}))^\rho$.

    Example:
        >>> karras(3, sigma_min=0.1, sigma_max=10.0)
        tensor([10.0000,  1.4507,  0.1000,  0.0000])
    """
    check_levels(steps, sigma_min, sigma_max)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    levels = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).to(dtype)


def loglinear(steps: int, *, sigma_min: float = 0.002, sigma_max: float = 5.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """(steps + 1,) levels evenly spaced in log sigma from sigma_max to sigma_min, then 0.

    Example:
        >>> loglinear(3, sigma_min=0.1, sigma_max=10.0)
        tensor([10.0000,  1.0000,  0.1000,  0.0000])
    """
    check_levels(steps, sigma_min, sigma_max)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    levels = sigma_max * (sigma_min / sigma_max) ** ramp
    return torch.cat([levels, levels.new_zeros(1)]).to(dtype)


def sampling_levels(steps: int, sigmas: tuple[float, float]) -> Tensor:
    """Karras' levels over the range a network was trained at: (steps + 1,). Capped at 80, above which states are essentially pure noise.

    Example:
        >>> sampling_levels(3, (0.03, 2000.0))[0]
        tensor(80.)
    """
    return karras(steps, sigma_min=sigmas[0], sigma_max=min(sigmas[1], 80.0))


@cache
def stable_diffusion_levels() -> DiscreteLevels:
    """Stable Diffusion's 1000 timesteps (Rombach et al. 2022), in which published settings of score distillation are stated:
    sqrt(beta) linear from sqrt(0.00085) to sqrt(0.012), sigma from 0.029 to 14.6.

    Betas and their product are computed in float32, as diffusers' schedulers do, so these levels equal those of a loaded model.

    Example:
        >>> stable_diffusion_levels().sigmas[[0, 500, 999]].round(decimals=3)
        tensor([ 0.0290,  1.6180, 14.6150], dtype=torch.float64)
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    return DiscreteLevels(alphas_cumprod=(1 - betas).cumprod(0))


def check_levels(steps: int, sigma_min: float, sigma_max: float) -> None:
    """Raise `InvalidInput` unless steps >= 1 and 0 < sigma_min < sigma_max."""
    if steps < 1:
        raise InvalidInput(f"a sampler needs at least 1 step, got {steps}")
    if not 0 < sigma_min < sigma_max:
        raise InvalidInput(f"noise levels need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")


class Bandwidth(Protocol):
    """A bandwidth for each item of x at a progress in [0, 1]: `(progress, x, denoiser) -> (batch,)`."""

    def __call__(self, progress: float, x: Tensor, denoiser: Denoiser, /) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class LinearBandwidth:
    """Bandwidth falling linearly from `start` to `end`; the paper's schedule starts at sqrt(0.1).

    The paper's falls to 0, where the kernel is a point mass; this one ends at `end` > 0.

    Example:
        >>> LinearBandwidth(start=0.3, end=0.1)(0.5, torch.zeros(2, 2), None)
        tensor([0.2000, 0.2000])
    """

    start: float = 0.1**0.5
    end: float = 1e-4

    def __post_init__(self) -> None:
        check_bandwidths(self.start, self.end)

    def __call__(self, progress: float, x: Tensor, denoiser: Denoiser | None) -> Tensor:
        del denoiser  # used by AdaptiveBandwidth only
        return x.new_full((x.shape[0],), self.start + (self.end - self.start) * progress)


@dataclass(frozen=True, kw_only=True)
class ExponentialBandwidth:
    """Bandwidth falling geometrically from `start` to `end`.

    Example:
        >>> ExponentialBandwidth(start=0.4, end=0.1)(0.5, torch.zeros(1, 2), None)
        tensor([0.2000])
    """

    start: float = 0.1**0.5
    end: float = 0.005

    def __post_init__(self) -> None:
        check_bandwidths(self.start, self.end)

    def __call__(self, progress: float, x: Tensor, denoiser: Denoiser | None) -> Tensor:
        del denoiser  # used by AdaptiveBandwidth only
        return x.new_full((x.shape[0],), self.start * (self.end / self.start) ** progress)


@dataclass(frozen=True, kw_only=True)
class AdaptiveBandwidth:
    r"""A bandwidth for each point: large at the first step, small afterwards, and never smaller than the point's distance from the data.

        step 0     l = first                                     y is approximately a sample of p
        later      l = max( L, reach rms(D(x; L) - x) )          at most `first`
                   L = start (end/start)^progress

    Mean shift at a large bandwidth merges modes, and a bandwidth that decays slowly merges them one after another, which lowers
    recall. This rule uses the large bandwidth for one draw and continues at the scale of the width of the modes. If the residual of a
    point at L shows that the data are farther away than L, its bandwidth is increased to reach them.

    Intended for full steps (`optimiser="sgd", lr=1`): x <- y with one draw y ~ q(.|x) is a reversible Markov chain whose
    stationary distribution is p(x) p_l(x) up to a constant, close to p^2 for small l: sharper than p, and with all of its modes. Averaging
    (many draws, a small rate, Adam) lowers that temperature further and costs coverage. One denoiser call per step unless reach = 0.

    Args:
        first: bandwidth of step 0, per coordinate; about twice the standard deviation of one coordinate of the data.
        start: L after it, per coordinate.
        end: L at progress 1, per coordinate.
        reach: bandwidths per unit of the residual's root mean square over coordinates, so that it means the same in every dimension. The
            default is 2 residual norms in the plane. 0 makes no call and treats all points alike.
        until: progress up to which `first` holds, for a chain whose first draw takes many steps.

    Example:
        >>> rule = AdaptiveBandwidth(start=0.1, end=0.1, reach=2.0)
        >>> rule(0.5, torch.tensor([[0.0], [1.0]]), lambda x, sigma: x - 0.2 * x)  # residuals 0 and 0.2
        tensor([0.1000, 0.4000])
    """

    first: float = 1.0
    start: float = 0.15
    end: float = 0.005
    reach: float = 8**0.5
    until: float = 0.0

    def __post_init__(self) -> None:
        check_bandwidths(self.first, self.start, self.end)
        if self.reach < 0:
            raise InvalidInput(f"reach must not be negative, got {self.reach}")

    def __call__(self, progress: float, x: Tensor, denoiser: Denoiser) -> Tensor:
        if progress <= self.until:
            return x.new_full((x.shape[0],), self.first)
        local = x.new_full((x.shape[0],), self.start * (self.end / self.start) ** progress)
        if self.reach == 0:
            return local
        residual = (denoiser(x, local) - x).flatten(1).square().mean(1).sqrt()
        return torch.maximum(local, self.reach * residual).clamp(max=max(self.first, self.start))


def check_bandwidths(*values: float) -> None:
    """Raise `InvalidInput` unless every bandwidth is positive."""
    if not all(value > 0 for value in values):
        raise InvalidInput(f"bandwidths must be positive, got {', '.join(format(v, 'g') for v in values)}")
