r"""Exact solids of the captions, as signed distances: negative inside, zero on the surface.

A solid is a union of parts, each a primitive moved, turned about the vertical axis z and scaled; the front faces +x. Every solid fits
into the ball of radius 1.05 around the origin. A part belongs to a colour slot: 0 the object's colour, 1 the base's, and fixed colours for
the doors, wheels and eyes of the composites, which distinguish front and back.

Distances of spheres, boxes, cylinders, cones, tori and capsules are Euclidean; those of pyramids, prisms and ellipsoids, and of unions
inside, are bounds: exact in sign and on the surface, never larger than the true distance outside, which is what sphere tracing needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, reduce

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput
from modeseek.solids.captions import BASES, COMPOSITES, SHAPES

FIXED_COLOURS = {
    "dark": (0.12, 0.12, 0.14),
    "light": (0.94, 0.94, 0.90),
    "wood": (0.45, 0.26, 0.12),
    "glow": (1.00, 0.90, 0.35),
    "steel": (0.62, 0.64, 0.68),
}
SLOTS = ("object", "base", *FIXED_COLOURS)


# ---------------------------------------------------------------- primitives: coordinates (n,) each -> distances (n,)
def length(*coordinates: Tensor) -> Tensor:
    """Euclidean norm of coordinates (n,) each: (n,). Reductions over an axis of three are slower."""
    return sum(c * c for c in coordinates).sqrt()  # type: ignore[union-attr]


def sphere(x: Tensor, y: Tensor, z: Tensor, r: float) -> Tensor:
    return length(x, y, z) - r


def ellipsoid(x: Tensor, y: Tensor, z: Tensor, a: float, b: float, c: float) -> Tensor:
    inner, outer = length(x / a, y / b, z / c), length(x / a**2, y / b**2, z / c**2).clamp_min(1e-9)
    return torch.minimum(inner * (inner - 1) / outer, (inner - 1) * max(a, b, c)).where(inner < 1, (inner - 1) * min(a, b, c))


def box(x: Tensor, y: Tensor, z: Tensor, a: float, b: float, c: float) -> Tensor:
    x, y, z = x.abs() - a, y.abs() - b, z.abs() - c
    inside = torch.maximum(torch.maximum(x, y), z).clamp_max(0)
    return length(x.clamp_min(0), y.clamp_min(0), z.clamp_min(0)) + inside


def cylinder(x: Tensor, y: Tensor, z: Tensor, r: float, h: float) -> Tensor:
    side, end = length(x, y) - r, z.abs() - h
    return length(side.clamp_min(0), end.clamp_min(0)) + torch.maximum(side, end).clamp_max(0)


def cone(x: Tensor, y: Tensor, z: Tensor, low: float, high: float, h: float) -> Tensor:
    """Frustum with radius `low` at z = -h and `high` at z = h (Quilez's capped cone)."""
    radius = length(x, y)
    beyond = (radius - torch.where(z < 0, low, high)).clamp_min(0)  # the rim of the base or of the cap
    above = z.abs() - h
    along = (((high - radius) * (high - low) + (h - z) * 2 * h) / ((high - low) ** 2 + 4 * h * h)).clamp(0, 1)
    outward, upward = radius - high + (high - low) * along, z - h + 2 * h * along
    inside = (outward < 0) & (above < 0)
    nearest = torch.minimum(beyond**2 + above**2, outward**2 + upward**2).sqrt()
    return torch.where(inside, -nearest, nearest)


def torus(x: Tensor, y: Tensor, z: Tensor, radius: float, tube: float) -> Tensor:
    return length(length(x, y) - radius, z) - tube


def capsule(x: Tensor, y: Tensor, z: Tensor, r: float, h: float) -> Tensor:
    return length(x, y, (z.abs() - h).clamp_min(0)) - r


def pyramid(x: Tensor, y: Tensor, z: Tensor, a: float, h: float) -> Tensor:
    """Square base of half width a at z = -h, apex at z = h."""
    slope = math.hypot(2 * h, a)
    side = (torch.maximum(x.abs(), y.abs()) * 2 * h + (z - h) * a) / slope
    return torch.maximum(side, -z - h)


def prism(x: Tensor, y: Tensor, z: Tensor, a: float, h: float, half_length: float) -> Tensor:
    """Triangle of half width a along y and half height h, extruded by `half_length` to either side along x."""
    slope = math.hypot(2 * h, a)
    side = (y.abs() * 2 * h + (z - h) * a) / slope
    return torch.maximum(torch.maximum(side, -z - h), x.abs() - half_length)


@dataclass(frozen=True)
class Part:
    """A primitive with its numbers, where it stands and the colour slot it belongs to."""

    distance: Callable[..., Tensor]
    sizes: tuple[float, ...]
    slot: str = "object"
    at: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: float = 0.0  # about z, in degrees
    lie: bool = False  # the primitive's z axis laid along y
    scale: float = 1.0

    def __call__(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        if any(self.at) or self.scale != 1:
            x, y, z = ((own - at) / self.scale for own, at in zip((x, y, z), self.at, strict=True))
        if self.turn:
            c, s = math.cos(math.radians(self.turn)), math.sin(math.radians(self.turn))
            x, y = c * x + s * y, c * y - s * x
        if self.lie:
            y, z = -z, y
        return self.distance(x, y, z, *self.sizes) * self.scale


# ---------------------------------------------------------------- the vocabulary: each shape's part and its half height
PRIMITIVES: dict[str, tuple[Part, float]] = {
    "sphere": (Part(sphere, (0.66,)), 0.66),
    "cube": (Part(box, (0.50, 0.50, 0.50), turn=30), 0.50),
    "cylinder": (Part(cylinder, (0.48, 0.58)), 0.58),
    "cone": (Part(cone, (0.60, 0.0, 0.64)), 0.64),
    "torus": (Part(torus, (0.52, 0.22)), 0.22),
    "capsule": (Part(capsule, (0.34, 0.42)), 0.76),
    "pyramid": (Part(pyramid, (0.58, 0.62), turn=30), 0.62),
    "prism": (Part(prism, (0.56, 0.46, 0.60), turn=30), 0.46),
}


def _house() -> list[Part]:
    return [
        Part(box, (0.46, 0.46, 0.36), at=(0, 0, -0.30)),
        Part(pyramid, (0.64, 0.30), "wood", at=(0, 0, 0.36)),
        Part(box, (0.04, 0.13, 0.20), "dark", at=(0.46, 0, -0.46)),
        Part(box, (0.04, 0.09, 0.09), "glow", at=(0.46, 0.28, -0.20)),
        Part(box, (0.08, 0.08, 0.22), "steel", at=(-0.26, -0.22, 0.46)),
    ]


def _car() -> list[Part]:
    wheels = [Part(cylinder, (0.17, 0.07), "dark", at=(x, y, -0.30), lie=True) for x in (0.46, -0.46) for y in (0.38, -0.38)]
    lamps = [Part(sphere, (0.10,), "glow", at=(0.76, y, -0.06)) for y in (0.22, -0.22)]
    body = [Part(box, (0.76, 0.36, 0.17), at=(0, 0, -0.10)), Part(box, (0.36, 0.31, 0.17), "steel", at=(-0.14, 0, 0.22))]
    return body + wheels + lamps


def _mushroom() -> list[Part]:
    eyes = [Part(sphere, (0.085,), "dark", at=(0.27, y, -0.24)) for y in (0.13, -0.13)]
    cap = [Part(ellipsoid, (0.72, 0.72, 0.40), at=(0, 0, 0.26))]
    return [Part(cylinder, (0.28, 0.40), "light", at=(0, 0, -0.32)), *cap, *eyes]


def _rocket() -> list[Part]:
    fins = [
        Part(box, (0.24, 0.04, 0.20), "steel", at=(x, y, -0.62), turn=t) for x, y, t in ((0.0, 0.34, 90), (0.0, -0.34, 90), (-0.34, 0.0, 0))
    ]
    return [
        Part(cylinder, (0.30, 0.46), at=(0, 0, -0.20)),
        Part(cone, (0.30, 0.0, 0.32), "light", at=(0, 0, 0.58)),
        Part(sphere, (0.14,), "glow", at=(0.24, 0, 0.02)),
        *fins,
    ]


def _robot() -> list[Part]:
    eyes = [Part(sphere, (0.09,), "glow", at=(0.24, y, 0.58)) for y in (0.12, -0.12)]
    limbs = [Part(cylinder, (0.09, 0.26), "dark", at=(0, y, z)) for y, z in ((0.47, 0.02), (-0.47, 0.02), (0.18, -0.62), (-0.18, -0.62))]
    panel = Part(box, (0.03, 0.16, 0.10), "light", at=(0.27, 0, 0.06))
    return [Part(box, (0.26, 0.36, 0.36), at=(0, 0, -0.02)), Part(box, (0.24, 0.28, 0.20), "steel", at=(0, 0, 0.56)), panel, *limbs, *eyes]


def _boat() -> list[Part]:
    hull = [Part(box, (0.46, 0.32, 0.18), at=(-0.16, 0, -0.30)), Part(pyramid, (0.26, 0.30), at=(0.46, 0, -0.28), turn=45)]
    return [
        *hull,
        Part(box, (0.20, 0.22, 0.14), "light", at=(-0.30, 0, 0.0)),
        Part(cylinder, (0.04, 0.50), "wood", at=(0.14, 0, 0.32)),
        Part(prism, (0.26, 0.26, 0.03), "glow", at=(0.14, 0, 0.50), turn=90),
    ]


_COMPOSITES = {"house": _house, "car": _car, "mushroom": _mushroom, "rocket": _rocket, "robot": _robot, "boat": _boat}
_PAIR_SCALE = 0.72


@dataclass(frozen=True)
class Solid:
    """A union of parts with a colour slot each.

    Example:
        >>> solid(("sphere",)).distance(torch.tensor([[1.0, 0.0, 0.0]]))
        tensor([0.3400])
    """

    parts: tuple[Part, ...]

    def distances(self, points: Tensor) -> Tensor:
        """Signed distance to each part: (n, 3) -> (n, parts)."""
        return torch.stack(self._of_parts(points), 1)

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance to the union: (n, 3) -> (n,)."""
        return reduce(torch.minimum, self._of_parts(points))

    def _of_parts(self, points: Tensor) -> list[Tensor]:
        coordinates = points.T.contiguous().unbind()
        return [part(*coordinates) for part in self.parts]

    def slots(self) -> Tensor:
        """Index into `SLOTS` of each part."""
        return torch.tensor([SLOTS.index(part.slot) for part in self.parts])


@cache
def solid(structure: Sequence[str]) -> Solid:
    """The solid of a structure, `(shape,)` or `(shape, base)`.

    Raises:
        InvalidInput: no such structure.
    """
    structure = tuple(structure)
    if len(structure) == 1 and structure[0] in COMPOSITES:
        return Solid(tuple(_COMPOSITES[structure[0]]()))
    if len(structure) == 1 and structure[0] in SHAPES:
        return Solid((PRIMITIVES[structure[0]][0],))
    if len(structure) == 2 and structure[0] in SHAPES and structure[1] in BASES:
        (upper, upper_half), (lower, lower_half) = PRIMITIVES[structure[0]], PRIMITIVES[structure[1]]
        whole = _PAIR_SCALE * (upper_half + lower_half)
        top = (0.0, 0.0, whole - _PAIR_SCALE * upper_half)
        bottom = (0.0, 0.0, -whole + _PAIR_SCALE * lower_half)
        return Solid(
            (
                Part(upper.distance, upper.sizes, "object", top, upper.turn, upper.lie, _PAIR_SCALE),
                Part(lower.distance, lower.sizes, "base", bottom, lower.turn, lower.lie, _PAIR_SCALE),
            )
        )
    raise InvalidInput(f"no solid is called {' on '.join(structure)}: choose a shape of {SHAPES + COMPOSITES}, on one of {BASES}")
