"""Random points on the surfaces of exact solids.

Uniform random lines meet any surface uniformly in its area (Crofton; Santalo 1976). Their crossings are found by marching along the signed
distance, then bisected. Nothing is projected, so edges are not oversampled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from modeseek.solids.shapes import solid

REACH = 1.05  # every solid is within this ball
SHORTEST = 0.002  # of a march's steps: thinner slivers can be stepped over


@cache
def surface_points(structure: tuple[str, ...], count: int, *, seed: int = 0) -> Tensor:
    """Random points spread evenly over a solid's surface, (count, 3) in double precision, on it to within 1e-9."""
    distance = solid(structure).distance
    rng = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    while sum(map(len, found)) < count:
        found.append(_crossings(distance, 2 * count, rng))
    points = torch.cat(found)
    return points[torch.randperm(len(points), generator=rng)[:count]]


def _crossings(distance: Callable[[Tensor], Tensor], lines: int, rng: torch.Generator) -> Tensor:
    """Where uniform random lines through the ball cross the surface."""
    along = normalize(torch.randn(lines, 3, generator=rng, dtype=torch.float64), dim=1)
    across = normalize(torch.linalg.cross(along, torch.randn(lines, 3, generator=rng, dtype=torch.float64)), dim=1)
    offset = REACH * torch.rand(lines, 1, generator=rng, dtype=torch.float64).sqrt()  # uniform on the disc that the lines go through
    start = offset * across - REACH * along
    t = torch.zeros(lines, dtype=torch.float64)
    here = distance(start)
    crossed = []
    while len(t):
        step = here.abs().clamp_min(SHORTEST)
        there = distance(start + (t + step)[:, None] * along)
        change = (here < 0) != (there < 0)
        crossed.append((start[change], along[change], t[change], step[change], here[change] < 0))
        t, here = t + step, there
        going = t < 2 * REACH
        start, along, t, here = start[going], along[going], t[going], here[going]
    origin, direction, low, width, inside = (torch.cat(column) for column in zip(*crossed, strict=True))
    for _ in range(32):
        width = width / 2
        behind = (distance(origin + (low + width)[:, None] * direction) < 0) == inside
        low = torch.where(behind, low + width, low)
    return origin + low[:, None] * direction
