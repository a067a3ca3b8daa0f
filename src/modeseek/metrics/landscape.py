r"""The potential a vector field implies: the loss whose gradient it would be, and how far it is from being one.

A field g sampled on an n x n grid is averaged onto the edges of the grid; the potential phi minimises

    sum over edges ( (phi_b - phi_a)/h - g_edge )^2

whose normal equation is a Poisson equation with Neumann boundaries, diagonal in the cosine basis: solved exactly, no iteration.
The residual, `curl`, is the share of |g|^2 that no potential explains: 0 for a gradient, 1 for a pure rotation. The paper
integrates its gradients numerically (Section 4.2) without saying how or reporting a residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput


@dataclass(frozen=True)
class Landscape:
    """A potential (n, n) with mean 0, indexed [i, j] at (x_i, y_j), and the share of the field it leaves unexplained."""

    potential: Tensor
    curl: float


def integrate(field: Tensor, *, spacing: float) -> Landscape:
    """The least-squares potential of a gradient field.

    Args:
        field: (n, n, 2), the field's two components at (x_i, y_j).
        spacing: distance h between neighbouring grid points.

    Raises:
        InvalidInput: the field is not a finite (n, n, 2) array or n < 2.

    Example:
        >>> ticks = torch.linspace(-1, 1, 21)
        >>> x, y = torch.meshgrid(ticks, ticks, indexing="ij")
        >>> bowl = integrate(torch.stack([x, y], 2), spacing=0.1)  # the gradient of (x^2 + y^2)/2
        >>> round(float(bowl.potential[0, 0] - bowl.potential[10, 10]), 4)
        1.0
    """
    if field.ndim != 3 or field.shape[0] != field.shape[1] or field.shape[2] != 2 or len(field) < 2:
        raise InvalidInput(f"a field has shape (n, n, 2) with n >= 2, got {tuple(field.shape)}")
    if not bool(field.isfinite().all()):
        raise InvalidInput("the field has NaN or infinite entries")
    g = field.double()
    n = len(g)
    along_x = 0.5 * (g[1:, :, 0] + g[:-1, :, 0])  # (n-1, n) edges
    along_y = 0.5 * (g[:, 1:, 1] + g[:, :-1, 1])  # (n, n-1) edges
    divergence = torch.zeros(n, n, dtype=torch.float64)
    divergence[:-1] += along_x
    divergence[1:] -= along_x
    divergence[:, :-1] += along_y
    divergence[:, 1:] -= along_y
    k = torch.arange(n, dtype=torch.float64)
    cosine = torch.cos(math.pi * k[:, None] * (k + 0.5) / n) * math.sqrt(2 / n)  # orthonormal DCT-II
    cosine[0] /= math.sqrt(2)
    eigenvalues = (2 * torch.cos(math.pi * k / n) - 2)[:, None] + (2 * torch.cos(math.pi * k / n) - 2)
    eigenvalues[0, 0] = 1.0
    spectrum = cosine @ (divergence * spacing) @ cosine.T / eigenvalues
    spectrum[0, 0] = 0.0
    potential = cosine.T @ spectrum @ cosine
    left = ((potential.diff(dim=0) / spacing - along_x) ** 2).sum() + ((potential.diff(dim=1) / spacing - along_y) ** 2).sum()
    size = (along_x**2).sum() + (along_y**2).sum()
    return Landscape(potential, float(left / size.clamp_min(1e-300)))
