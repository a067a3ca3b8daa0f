r"""The two-class fractal of Karras et al. (2024, "Guiding a diffusion model with a bad version of itself", Fig. 1).

A tree of branches, each a row of eight narrow Gaussians; most mass lies on thin curves, as natural images do in their space.
Two trees (classes A and B) grow from one stream of random numbers, A first. Re-derived from the published description;
checked against its known moments: 1016 components per class, union mean about 0 and standard deviation (0.49985, 0.49990).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from modeseek.core.errors import InvalidInput
from modeseek.densities.mixture import GaussianMixture

ORIGIN = np.array([0.0030, 0.0325])
SCALE = np.array([1.3136, 1.3844])
DEPTH = 7  # levels of branches: 1 + 2 + ... + 64 = 127 per class
PER_BRANCH = 8

Component = tuple[float, np.ndarray, np.ndarray]


def _grow(stream: np.random.RandomState, start: np.ndarray, angle: float, depth: int) -> list[Component]:
    """A branch and, depth first, its two subtrees: one normal for the length, then one for each child's angle."""
    if depth == DEPTH:
        return []
    length = 0.292 * 0.8**depth * (1 + 0.2 * stream.randn())
    thickness = 0.2 * 0.8**depth / length
    direction = np.array([np.cos(angle), np.sin(angle)])
    size = SCALE * length * 0.06
    along = np.outer(direction, direction)
    covariance = (along + (np.eye(2) - along) * thickness**2) * np.outer(size, size)
    parts: list[Component] = [
        (length * 0.5**depth, (start + direction * length * t) * SCALE, covariance) for t in np.linspace(0.07, 0.93, PER_BRANCH)
    ]
    for sign in (1, -1):
        child = angle + sign * 0.7**depth * (1 + 0.2 * stream.randn())
        parts += _grow(stream, start + direction * length, child, depth + 1)
    return parts


@cache
def fractal(classes: str = "A") -> GaussianMixture:
    """The fractal density of class "A", class "B", or both ("AB", equally likely).

    A mixture of 1016 Gaussians per class in R^2. The entropy of A, which is the NLL of exact samples, is -1.36 nats; its largest log
    density is 2.90; the contour log p > max - 4.494 holds 98.55 % of its mass.

    Raises:
        InvalidInput: `classes` is not "A", "B" or "AB".

    Example:
        >>> len(fractal("A").weights)
        1016
    """
    if classes not in ("A", "B", "AB"):
        raise InvalidInput(f"the fractal has classes A, B and AB, not {classes!r}")
    stream = np.random.RandomState(2)
    trees = {name: _grow(stream, ORIGIN, np.pi * turn, 0) for name, turn in (("A", 0.25), ("B", 1.25))}
    parts = [component for name in classes for component in trees[name]]
    weights, means, covariances = (torch.from_numpy(np.array(column)) for column in zip(*parts, strict=True))
    return GaussianMixture(weights, means, covariances)
