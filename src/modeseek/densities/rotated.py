"""A mixture in many dimensions: rotated, unequal Gaussians with random means, standardised like the densities of the plane."""

from __future__ import annotations

from functools import cache

import torch

from modeseek.densities.mixture import GaussianMixture


@cache
def rotated_mixture(dim: int = 64, *, seed: int = 3) -> GaussianMixture:
    """A mixture of five Gaussians in R^dim with weights 0.38 to 0.07, each with its own axes and variances.

    It has mean 0, and the root mean square of its standard deviations over coordinates is 0.5.

    Args:
        dim: dimension d.
        seed: of means, axes and variances.

    Example:
        >>> covariance = rotated_mixture(16).moments()[1]
        >>> round(float(covariance.trace() / 16) ** 0.5, 6)
        0.5
    """
    rng = torch.Generator().manual_seed(seed)
    means = 0.8 * torch.randn(5, dim, dtype=torch.float64, generator=rng)
    covariances = []
    for _ in range(5):
        axes = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=rng))[0]
        variances = 0.05 * torch.exp(0.7 * torch.randn(dim, dtype=torch.float64, generator=rng))
        covariances.append((axes * variances) @ axes.T)
    weights = torch.tensor([0.38, 0.30, 0.15, 0.10, 0.07], dtype=torch.float64)
    found = GaussianMixture(weights, means, torch.stack(covariances))
    mean, covariance = found.moments()
    scale = 0.5 / (covariance.trace() / dim).sqrt()
    return GaussianMixture(weights, (means - mean) * scale, torch.stack(covariances) * scale**2)
