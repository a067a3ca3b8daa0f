r"""Precision, recall, density and coverage of generated against true samples, by k nearest neighbours.

    precision  share of generated points inside some true point's k-NN ball       (Kynkaanniemi et al. 2019)
    recall     share of true points inside some generated point's k-NN ball       (Kynkaanniemi et al. 2019)
    density    number of true balls around a generated point, over k              (Naeem et al. 2020)
    coverage   share of true points whose own k-NN ball holds a generated point   (Naeem et al. 2020)

A ball reaches to the k-th nearest other point of its own set. Recall alone misleads: one far outlier's large ball covers many true
points; coverage does not have this flaw. For a perfect sampler at k = 3 coverage is about 1 - 2^-3 = 0.88.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput

_PAIRS_AT_ONCE = 1 << 24


def _distances(a: Tensor, b: Tensor):  # noqa: ANN202
    """Rows of the distance matrix, a chunk at a time: yields (rows, len(b))."""
    for part in a.split(max(1, _PAIRS_AT_ONCE // len(b))):
        yield torch.cdist(part, b, compute_mode="donot_use_mm_for_euclid_dist")


def ball_radii(points: Tensor, k: int) -> Tensor:
    """Distance from each point to its k-th nearest other point: (n, d) -> (n,)."""
    return torch.cat([rows.topk(k + 1, dim=1, largest=False).values[:, -1] for rows in _distances(points, points)])


def precision_recall(generated: Tensor, true: Tensor, *, k: int = 3) -> dict[str, float]:
    """The four numbers of the module's docstring, as `precision`, `recall`, `density`, `coverage`.

    Args:
        generated: (n, d).
        true: (m, d); use as many as generated, for all four depend on the counts.
        k: neighbours.

    Raises:
        InvalidInput: a set is not an (n, d) array of finite points or has no more than k of them.

    Example:
        >>> square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> precision_recall(square, square, k=1)["coverage"]
        1.0
    """
    for name, points in (("generated", generated), ("true", true)):
        if points.ndim != 2 or len(points) <= k or not bool(points.isfinite().all()):
            raise InvalidInput(f"{name} points must be finite and more than k = {k}, got shape {tuple(points.shape)}")
    generated = generated.to(true)
    true_radii, generated_radii = ball_radii(true, k), ball_radii(generated, k)
    inside_true, hit = [], torch.zeros(len(true), dtype=torch.bool)
    recalled = torch.zeros(len(true), dtype=torch.bool)
    for index, rows in enumerate(_distances(generated, true)):
        within = rows <= true_radii
        inside_true.append(within.sum(1))
        hit |= within.any(0)
        start = index * max(1, _PAIRS_AT_ONCE // len(true))
        recalled |= (rows <= generated_radii[start : start + len(rows), None]).any(0)
    counts = torch.cat(inside_true).double()
    return {
        "precision": float((counts > 0).double().mean()),
        "recall": float(recalled.double().mean()),
        "density": float(counts.mean() / k),
        "coverage": float(hit.double().mean()),
    }
