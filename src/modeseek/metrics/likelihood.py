"""Scores of points under a known density: likelihood, outliers, and the number of modes that they reach."""

from __future__ import annotations

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput
from modeseek.densities import GaussianMixture

CONTOUR = 4.494
"""Depth of the outlier contour below the largest log density; 98.55 % of fractal A's mass lies inside it."""


def negative_log_likelihood(points: Tensor, density: GaussianMixture) -> float:
    """Mean of -log p over points (n, d), in nats. The expectation for exact samples is the density's entropy; points on modes have less.

    Raises:
        InvalidInput: a point is not finite.

    Example:
        >>> unit = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> round(negative_log_likelihood(torch.zeros(1, 2), unit), 4)  # log(2 pi)
        1.8379
    """
    if not bool(points.isfinite().all()):
        raise InvalidInput("points have NaN or infinite entries; their likelihood is not defined")
    return float(-density.log_prob(points.double()).mean())


def outlier_rate(points: Tensor, density: GaussianMixture) -> float:
    """Share of points outside the contour log p = max log p - 4.494 (the support that Karras et al. 2024 draw).

    Example:
        >>> unit = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> outlier_rate(torch.tensor([[0.0, 2.9], [0.0, 3.1]]), unit)  # the contour is at radius sqrt(2 * 4.494) = 2.998
        0.5
    """
    return float((density.log_prob(points.double()) < density.highest_log_prob() - CONTOUR).double().mean())


def modes_reached(points: Tensor, modes: Tensor, *, radius: float) -> int:
    """Number of modes (M, d) with a point within `radius` of them."""
    distances = torch.cdist(modes, points.to(modes), compute_mode="donot_use_mm_for_euclid_dist")
    return int((distances.min(1).values <= radius).sum())
