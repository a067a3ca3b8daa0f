r"""Samplers of any denoiser: integrators of dx/dsigma = (x - D(x; sigma)) / sigma and of the corresponding reverse SDE.

    ddim        Euler in sigma (Song et al. 2021): x <- x + (sigma' - sigma) eps          order 1, one call per step
    heun        trapezoidal in sigma (Karras et al. 2022, Alg. 1)                         order 2, two calls per step but the last
    ancestral   x' ~ N(D + (sigma'/sigma)^2 (x - D), sigma'^2 (1 - sigma'^2/sigma^2) I)   (Ho et al. 2020), one call per step
    invert      ddim upwards, from clean data to noise (DDIM inversion), one call per step

`levels` (steps + 1,) or (steps + 1, batch) descend, and may end in 0, where the denoised state itself is the result; for `invert`
they ascend and start above 0 (the clean x is used as the state at the first level). The paper's samplers of the product density are
in `modeseek.product.samplers`.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from modeseek.core.denoiser import Denoiser, eps, per_item
from modeseek.core.errors import InvalidInput


def ddim(denoiser: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
    """Deterministic sampler of order 1: state x at levels[0] -> state at levels[-1].

    Example:
        >>> normal = lambda x, sigma: x / (1 + sigma**2)  # data N(0, 1)
        >>> ddim(normal, torch.tensor([[10.0]]), torch.linspace(10, 0, 2001))  # exact: 10 / sqrt(1 + 10^2)
        tensor([[0.9931]])
    """
    for sigma, following in _pairs(levels, x):
        x = x + per_item(following - sigma, x) * eps(denoiser, x, sigma)
    return x


def heun(denoiser: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
    """Deterministic sampler of order 2; a last step to 0 is an Euler step.

    Example:
        >>> normal = lambda x, sigma: x / (1 + sigma**2)
        >>> heun(normal, torch.tensor([[10.0]]), torch.linspace(10, 0, 201))
        tensor([[0.9941]])
    """
    for sigma, following in _pairs(levels, x):
        step = per_item(following - sigma, x)
        slope = eps(denoiser, x, sigma)
        moved = x + step * slope
        if bool((following > 0).all()):
            moved = x + step * 0.5 * (slope + eps(denoiser, moved, following))
        x = moved
    return x


def ancestral(denoiser: Denoiser, x: Tensor, levels: Tensor, *, rng: torch.Generator | None = None) -> Tensor:
    """Stochastic sampler: each step draws from the Gaussian posterior of the next state given the denoised one."""
    for sigma, following in _pairs(levels, x):
        ratio = per_item((following / sigma) ** 2, x)
        denoised = denoiser(x, sigma)
        noise = torch.randn(x.shape, dtype=x.dtype, generator=rng).to(x.device)
        x = denoised + ratio * (x - denoised) + per_item(following, x) * (1 - ratio).sqrt() * noise
    return x


def invert(denoiser: Denoiser, x: Tensor, levels: Tensor) -> Tensor:
    """The states that DDIM would have passed on its way to x: (steps + 1, batch, *event), the first being x itself.

    Raises:
        InvalidInput: levels do not ascend from above 0.
    """
    if not bool((levels[0] > 0).all() and (levels.diff(dim=0) >= 0).all()):
        raise InvalidInput("the levels of an inversion must ascend and start above 0")
    states = [x]
    for sigma, following in itertools.pairwise(levels):
        states.append(states[-1] + per_item(following - sigma, x) * eps(denoiser, states[-1], sigma))
    return torch.stack(states)


def _pairs(levels: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Consecutive levels, checked to descend with all but the last above 0."""
    levels = levels.to(x)
    if not bool((levels[:-1] > 0).all() and (levels.diff(dim=0) <= 0).all() and (levels[-1] >= 0).all()):
        raise InvalidInput("the levels of a sampler must descend and stay above 0 until the last")
    return list(itertools.pairwise(levels))
