r"""Frechet distance between Gaussians fitted to two sets of features (Dowson & Landau 1982; Heusel et al. 2017).

    d^2 = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^{1/2})

It is the FID only on Inception features of images. tr (S_1 S_2)^{1/2} is the sum of the square roots of the eigenvalues of
S_1^{1/2} S_2 S_1^{1/2}, a symmetric positive semi-definite matrix, so no general matrix root is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Squared Frechet distance of features x (n, d) and y (m, d), in float64.

    Raises:
        InvalidInput: a set is not (n, d) or has fewer than two items, or the dimensions differ.

    Example:
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> frechet_distance(x, x + 3)
        9.0
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise InvalidInput(f"two (n, d) feature sets of at least two items needed, got {tuple(x.shape)}, {tuple(y.shape)}")
    x, y = x.double(), y.double()
    return frechet_of_gaussians(x.mean(0), torch.atleast_2d(x.T.cov()), y.mean(0), torch.atleast_2d(y.T.cov()))


def frechet_of_gaussians(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """Squared Frechet distance of two Gaussians with means (d,) and covariances (d, d), in closed form."""
    values, vectors = torch.linalg.eigh(cov_1)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_2 @ root).clamp_min(0).sqrt().sum()
    return float(((mean_1 - mean_2) ** 2).sum() + cov_1.trace() + cov_2.trace() - 2 * cross)
