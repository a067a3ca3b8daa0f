r"""Draws of the product density $q(y|x)$ by the reverse process of the model itself, from the state (x, l).

q(y|x) ~ p(y) N(y; x, l^2 I) is the posterior p(y | x_l = x): x is taken as a state at level l. The reverse process started there samples
it, evaluates the denoiser at levels of l and below only, and from the second state on its states are noisy. This is
the prior step of PnP-DM (Wu et al. 2024, arXiv:2405.18782), and posterior sampling by diffusion in general (Ho et al. 2020).

    ancestral   x' ~ N(D + r (x - D), (s'^2 (1 - r) + (1 - r)^2 v) I),   r = s'^2/s^2                 one call per step
    heun        Heun's method from s to s'^2/s along the probability-flow ODE, then noise up to s'   two calls per step but the last

v is the variance of p(y | x_s) per coordinate. DDPM's two choices are v = 0 (data that are points) and v = s^2 (Ho et al. 2020, section
3.2); here v = s^2 d^2/(s^2 + d^2), exact for Gaussian data of standard deviation d, and d = 0 by default. With "ancestral" the mean of y
is exactly D(x; l) when D is linear. Both converge to q at first order in the step: with d = 0 and 16 steps about a third of the variance of
q is missing for Gaussian data. The first evaluation is at x itself, where x may have less noise than l implies.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser, as_sigma, eps, per_item
from modeseek.core.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class ReverseSampler:
    """Draws of q by the reverse process from (x, l); a sampler of the product density.

    Args:
        steps: levels from l down.
        sigma_min: lowest level before 0, per coordinate (a tenth of l where that is lower).
        solver: "ancestral", `steps` calls, or "heun", 2 `steps` - 1 calls.
        data_std: d of the ancestral steps' variance, per coordinate; 0 for data on curves or points finer than the levels.
        sigma_max: highest level at which the denoiser may be evaluated: a wider bandwidth raises.

    Raises:
        InvalidInput: steps below 1, levels out of order, an unknown solver; called, a bandwidth above `sigma_max`.

    Example:
        >>> normal = lambda x, sigma: x / (1 + sigma.reshape(-1, 1) ** 2)  # p = N(0, 1)
        >>> rng = torch.Generator().manual_seed(0)
        >>> y = ReverseSampler(data_std=1.0)(normal, torch.full((4000, 1), 2.0), torch.ones(4000), torch.randn(4000, 1, generator=rng))
        >>> round(float(y.mean()), 1), round(float(y.var()), 1)  # q = N(1, 1/2)
        (1.0, 0.5)
    """

    steps: int = 16
    sigma_min: float = 0.002
    solver: Literal["ancestral", "heun"] = "ancestral"
    data_std: float = 0.0
    sigma_max: float = math.inf

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.sigma_min < self.sigma_max or self.data_std < 0:
            raise InvalidInput(f"the reverse process needs steps >= 1, 0 < sigma_min < sigma_max and data_std >= 0, got {self}")
        if self.solver not in ("ancestral", "heun"):
            raise InvalidInput(f"solver {self.solver!r} is unknown: choose ancestral or heun")

    def __call__(self, denoiser: Denoiser, centre: Tensor, bandwidth: Tensor, noise: Tensor) -> Tensor:
        bandwidth = as_sigma(bandwidth, centre)
        if float(bandwidth.max()) > self.sigma_max * (1 + 1e-6):
            raise InvalidInput(
                f"bandwidth {float(bandwidth.max()):.4g} lies above {self.sigma_max:.4g}, the highest level of the network: lower it"
            )
        levels = levels_below(bandwidth, self.steps, sigma_min=self.sigma_min)
        state = centre
        for index, (sigma, following) in enumerate(itertools.pairwise(levels)):
            fresh = noise if index == 0 else derived_noise(noise, index)
            state = self._step(denoiser, state, sigma, following, fresh)
        return state

    def _step(self, denoiser: Denoiser, x: Tensor, sigma: Tensor, following: Tensor, noise: Tensor) -> Tensor:
        lower = following**2 / sigma  # where a deterministic step ends, below the next level
        slope = eps(denoiser, x, sigma)
        moved = x + per_item(lower - sigma, x) * slope
        if self.solver == "heun" and bool((lower > 0).all()):
            moved = x + per_item(lower - sigma, x) * 0.5 * (slope + eps(denoiser, moved, lower))
        variance = following**2 - lower**2  # s'^2 (1 - r)
        if self.solver == "ancestral" and self.data_std > 0:
            variance = variance + (1 - (following / sigma) ** 2) ** 2 / (sigma**-2 + self.data_std**-2) * (following > 0)
        return moved + per_item(variance.clamp(min=0).sqrt(), x) * noise


def levels_below(bandwidth: Tensor, steps: int, *, sigma_min: float) -> Tensor:
    """Karras' levels from l down to min(0.1 l, sigma_min), then 0: (steps + 1, *bandwidth.shape).

    Example:
        >>> levels_below(torch.tensor([0.1, 1.0]), 2, sigma_min=0.05)
        tensor([[0.1000, 1.0000],
                [0.0100, 0.0500],
                [0.0000, 0.0000]])
    """
    low = (0.1 * bandwidth).clamp(max=sigma_min)
    ramp = torch.linspace(0, 1, steps, dtype=bandwidth.dtype, device=bandwidth.device).reshape(-1, *[1] * bandwidth.ndim)
    levels = (bandwidth ** (1 / 7) + ramp * (low ** (1 / 7) - bandwidth ** (1 / 7))) ** 7
    return torch.cat([levels, torch.zeros_like(levels[:1])])


def derived_noise(noise: Tensor, index: int) -> Tensor:
    """N(0, I) like `noise`, a function of its bits and of `index` alone, coordinate by coordinate.

    A sampler takes one normal tensor as its only randomness, which makes batches independent and noise policies possible. The noises of
    later steps come from it by a counter-based generator (SplitMix64, Steele et al. 2014; the principle is Salmon et al. 2011).

    Example:
        >>> n = torch.randn(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        >>> m = derived_noise(n, 1)
        >>> bool(m.std() - 1 < 0.01), bool((n * m).mean().abs() < 0.01), bool((m == derived_noise(n, 1)).all())
        (True, True, True)
    """
    bits = noise.detach().cpu().double().view(torch.int64)
    offset = (_GOLDEN * (index + 1) + (1 << 63)) % (1 << 64) - (1 << 63)  # as a signed integer
    bits = bits + offset
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ _right(bits, shift)) * (factor - (1 << 64))
    bits = bits ^ _right(bits, 31)
    uniform = (_right(bits, 11).double() + 0.5) / 2**53
    return (math.sqrt(2) * torch.erfinv(2 * uniform - 1)).to(noise)


_GOLDEN = 0x9E3779B97F4A7C15


def _right(bits: Tensor, shift: int) -> Tensor:
    """Logical right shift of int64."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)
