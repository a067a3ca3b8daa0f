r"""Similarity of images of the same view, and distances between point sets.

    IoU         |A and B| / |A or B| of two silhouettes                                        (Jaccard 1901)
    PSNR        -10 log10 mean (a - b)^2, in decibels, values in [0, 1]
    SSIM        mean over windows of  (2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))    (Wang et al. 2004)
    Chamfer     half of (mean distance from A to B's nearest point + mean distance from B to A's nearest)   (Barrow et al. 1977)
    F-score     harmonic mean of the shares of A within a threshold of B and of B within it of A      (Knapitsch et al. 2017)

Literature has many Chamfer distances: this one is of distances, not of their squares, and a length. SSIM's windows are Gaussian, 11 wide
with standard deviation 1.5, and lie within the image; c1 = 0.01^2, c2 = 0.03^2; channels are averaged. Point sets are compared by brute
force, a chunk at a time: n m distances, so sets of 10 000 points take about a second.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from modeseek.core.errors import InvalidInput

WINDOW, DEVIATION = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
PAIRS_AT_ONCE = 1 << 23


def silhouette_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each pair of silhouettes, bool (n, ..., h, w) -> (n,); 1 where both are empty.

    Example:
        >>> silhouette_iou(torch.tensor([[True, True, False]]), torch.tensor([[False, True, True]]))
        tensor([0.3333])
    """
    _alike(a, b)
    both, either = ((part.flatten(1)).sum(1).float() for part in (a & b, a | b))
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair of images in [0, 1], (n, ..., h, w) -> (n,) decibels; infinite where they are equal.

    Example:
        >>> psnr(torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1))
        tensor([20.])
    """
    _alike(a, b)
    return -10 * ((a - b) ** 2).flatten(1).mean(1).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair of images in [0, 1]: (n, channels, h, w) -> (n,).

    Raises:
        InvalidInput: shapes that differ, or images smaller than a window.
    """
    _alike(a, b)
    if a.ndim != 4 or min(a.shape[-2:]) < WINDOW:
        raise InvalidInput(f"structural similarity needs images (n, channels, h, w) of at least {WINDOW} pixels, got {tuple(a.shape)}")
    a, b = a.double(), b.double()  # variances are small differences
    mean_a, mean_b = windowed(a), windowed(b)
    variance_a, variance_b = windowed(a * a) - mean_a**2, windowed(b * b) - mean_b**2
    covariance = windowed(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    structure = (2 * covariance + C2) / (variance_a + variance_b + C2)
    return (light * structure).flatten(1).mean(1).float()


def windowed(images: Tensor) -> Tensor:
    """Gaussian means over every window that lies within the image: (n, c, h, w) -> (n, c, h - 10, w - 10)."""
    offsets = torch.arange(WINDOW).to(images) - WINDOW // 2
    kernel = (-(offsets**2) / (2 * DEVIATION**2)).exp()
    kernel = kernel / kernel.sum()
    flat = images.flatten(0, 1)[:, None]
    return conv2d(conv2d(flat, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0].unflatten(0, images.shape[:2])


def nearest(a: Tensor, b: Tensor) -> Tensor:
    """Distance from each point of a (n, d) to the nearest of b (m, d): (n,).

    Raises:
        InvalidInput: an empty or infinite set, or dimensions that differ.
    """
    for points in (a, b):
        if points.ndim != 2 or len(points) == 0 or points.shape[1] != a.shape[1] or not bool(points.isfinite().all()):
            raise InvalidInput(f"point sets must be finite and of one dimension, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    parts = a.split(max(1, PAIRS_AT_ONCE // len(b)))
    return torch.cat([torch.cdist(part, b.to(part), compute_mode="donot_use_mm_for_euclid_dist").amin(1) for part in parts])


def chamfer_and_f(a: Tensor, b: Tensor, threshold: float) -> tuple[float, float]:
    """Chamfer distance, and F-score at a threshold, of two point sets (n, d) and (m, d).

    Example:
        >>> chamfer_and_f(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 0.5]]), 0.6)
        (0.5, 1.0)
    """
    to_b, to_a = nearest(a, b), nearest(b, a)
    precision, recall = (float((found <= threshold).double().mean()) for found in (to_b, to_a))
    chamfer = float(to_b.double().mean() + to_a.double().mean()) / 2
    return chamfer, 2 * precision * recall / max(precision + recall, 1e-12)


def diameter(points: Tensor) -> float:
    """Largest distance between two points of a set (n, d)."""
    parts = points.split(max(1, PAIRS_AT_ONCE // len(points)))
    return max(float(torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist").amax()) for part in parts)


def on_triangles(vertices: Tensor, faces: Tensor, count: int, *, rng: torch.Generator) -> Tensor:
    """Random points spread evenly over a mesh's area: vertices (v, 3), faces (f, 3) -> (count, 3).

    Barycentric weights of a point are (1 - sqrt u, sqrt u (1 - w), sqrt u w) for uniform u, w (Osada et al. 2002).

    Raises:
        InvalidInput: a mesh without area.
    """
    a, b, c = vertices[faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    if len(faces) == 0 or not float(area.sum()) > 0:
        raise InvalidInput("the mesh has no area to put points on")
    edges = area.double().cumsum(0)
    place = torch.rand(count, generator=rng, dtype=torch.float64) * edges[-1]
    chosen = torch.searchsorted(edges, place).clamp(max=len(faces) - 1)
    u, w = torch.rand(2, count, 1, generator=rng, dtype=torch.float64).to(vertices)
    root = u.sqrt()
    return (1 - root) * a[chosen] + root * (1 - w) * b[chosen] + root * w * c[chosen]


def _alike(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim < 2:
        raise InvalidInput(f"images must come in pairs of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
