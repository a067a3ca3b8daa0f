"""Mixtures of rotated, unequal Gaussians in any dimension: test targets for samplers, with posteriors in closed form."""

from __future__ import annotations

import torch

from modeseek.core.errors import InvalidInput
from modeseek.densities.mixture import GaussianMixture


def anisotropic_mixture(dim: int, *, components: int = 5, seed: int = 0) -> GaussianMixture:
    """A mixture of `components` Gaussians in R^dim with random rotations, unequal weights and standard deviations from 0.1 to 0.5.

    Means are normal with standard deviation 1 per coordinate divided by sqrt(dim / 2), so that components stay a few standard deviations
    apart whatever the dimension.

    Args:
        dim: dimension, at least 1.
        components: number of Gaussians, at least 1.
        seed: of all its numbers.

    Raises:
        InvalidInput: dim or components below 1.

    Example:
        >>> mixture = anisotropic_mixture(16)
        >>> mixture.dim, tuple(mixture.weights.shape), round(float(mixture.weights.sum()), 6)
        (16, (5,), 1.0)
    """
    if dim < 1 or components < 1:
        raise InvalidInput(f"a mixture needs dim and components of at least 1, got {dim} and {components}")
    rng = torch.Generator().manual_seed(seed)
    weights = torch.linspace(1.0, 3.0, components, dtype=torch.float64)
    means = torch.randn(components, dim, dtype=torch.float64, generator=rng) / max(dim / 2, 1.0) ** 0.5
    axes = torch.linalg.qr(torch.randn(components, dim, dim, dtype=torch.float64, generator=rng)).Q
    deviations = 0.1 + 0.4 * torch.rand(components, dim, dtype=torch.float64, generator=rng)
    covariances = (axes * (deviations**2)[:, None, :]) @ axes.transpose(1, 2)
    return GaussianMixture(weights, means, covariances)
