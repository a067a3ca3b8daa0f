r"""Renders of the solids by sphere tracing (Hart 1996), and the cameras of each named view.

Cameras orbit the origin, z up: azimuth 0 looks at the front (+x), 90 at the left side, elevation from the horizon, both in degrees.
Shading is Lambertian with one light fixed in the world, from the front, left and above, so that front and back of symmetric solids differ:

    colour = albedo (ambient + (1 - ambient) max(0, normal . light))

A render is linear in the palette. With several rays per pixel, pixel = sum over slots of W_slot albedo_slot + W_background background.
`trace` returns the weights W, from which any colouring of a geometry is one product (`colour`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modeseek.solids.captions import BACKGROUNDS, COLOURS, Scene
from modeseek.solids.shapes import FIXED_COLOURS, SLOTS, Solid, solid

FIELD_OF_VIEW = 40.0  # degrees, whole angle
DISTANCE = 3.2
AMBIENT = 0.42
LIGHT = (0.62, 0.40, 0.68)


@dataclass(frozen=True)
class Cameras:
    """Orbiting cameras looking at the origin.

    Args:
        azimuth: (n,) degrees, 0 the front.
        elevation: (n,) degrees above the horizon.
        distance: (n,).
    """

    azimuth: Tensor
    elevation: Tensor
    distance: Tensor

    def rays(self, size: int) -> tuple[Tensor, Tensor]:
        """Origins (n, 3) and unit directions (n, size, size, 3), rows from the top; pixels are sampled at their centres."""
        azimuth, elevation = self.azimuth.deg2rad(), self.elevation.deg2rad()
        back = torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], 1)
        right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], 1)
        up = torch.linalg.cross(back, right)
        half = math.tan(math.radians(FIELD_OF_VIEW / 2))
        ticks = ((torch.arange(size) + 0.5) / size * 2 - 1) * half
        directions = (
            -back[:, None, None] + ticks[None, None, :, None] * right[:, None, None] - ticks[None, :, None, None] * up[:, None, None]
        )
        return back * self.distance[:, None], directions / directions.norm(dim=-1, keepdim=True)


def view_cameras(view: str, count: int, *, rng: torch.Generator) -> Cameras:
    """Random cameras of a view.

    Azimuth within 30 degrees of the front, of either side or of the back, elevation 8 to 32 degrees; "overhead" has elevation 55 to 75
    around the front.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=rng)

    centre = {"front": 0.0, "side": 90.0, "back": 180.0, "overhead": 0.0}[view]
    azimuth = centre + uniform(-30, 30)
    if view == "side":
        azimuth = azimuth + 180 * (torch.rand(count, generator=rng) < 0.5)
    elevation = uniform(55, 75) if view == "overhead" else uniform(8, 32)
    return Cameras(azimuth, elevation, DISTANCE * uniform(0.97, 1.03))


def hits(shape: Solid, origins: Tensor, directions: Tensor, *, steps: int = 64, tolerance: float = 1e-3) -> Tensor:
    """Distance along each ray to the surface, inf where it misses: origins and directions (n, 3) -> (n,)."""
    middle = -(origins * directions).sum(1)  # the point of the ray nearest to the origin
    inside = 1.05**2 - (origins**2).sum(1) + middle**2
    depth = torch.full_like(middle, math.inf)
    active = (inside > 0).nonzero()[:, 0]
    reach = inside[active].sqrt()
    t, end = middle[active] - reach, middle[active] + reach
    origin, direction = (whole[active].T.contiguous() for whole in (origins, directions))
    for _ in range(steps):
        distance = shape.distance((origin + t * direction).T)
        landed = distance < tolerance
        depth[active[landed]] = t[landed]
        t = t + distance
        going = (~landed & (t < end)).nonzero()[:, 0]
        if len(going) == 0:
            break
        active, t, end, origin, direction = active[going], t[going], end[going], origin[:, going], direction[:, going]
    return depth


def normals(shape: Solid, points: Tensor, *, step: float = 1e-3) -> Tensor:
    """Unit normals of the surface at (n, 3) by differences along a tetrahedron's four corners."""
    corners = points.new_tensor([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]])
    values = torch.stack([shape.distance(points + step * corner) for corner in corners], 1)
    gradient = values @ corners
    return gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)


def trace(shape: Solid, cameras: Cameras, *, size: int = 64, samples: int = 2) -> Tensor:
    """Weights of every colour slot and, last, of the background: (n, slots + 1, size, size), `samples`^2 rays a pixel."""
    origins, directions = cameras.rays(size * samples)
    count, fine = len(origins), size * samples
    directions = directions.reshape(-1, 3)
    origins = origins.repeat_interleave(fine * fine, 0)
    depth = hits(shape, origins, directions)
    hit = depth.isfinite()
    points = origins[hit] + depth[hit][:, None] * directions[hit]
    light = torch.tensor(LIGHT) / torch.tensor(LIGHT).norm()
    shade = AMBIENT + (1 - AMBIENT) * (normals(shape, points) @ light).clamp_min(0)
    slot = shape.slots()[shape.distances(points).argmin(1)]
    weights = torch.zeros(len(depth), len(SLOTS) + 1)
    weights[hit.nonzero()[:, 0], slot] = shade
    weights[~hit, -1] = 1.0
    planes = weights.reshape(count, size, samples, size, samples, -1).mean((2, 4))
    return planes.permute(0, 3, 1, 2)


def palette(scene: Scene) -> Tensor:
    """Albedo of every slot and the background (grey where the scene names none): (slots + 1, 3)."""
    unused = (0.0, 0.0, 0.0)
    rows = [COLOURS[scene.colour], COLOURS[scene.base_colour] if scene.base_colour else unused, *FIXED_COLOURS.values()]
    return torch.tensor([*rows, BACKGROUNDS[scene.background or "grey"]])


def colour(weights: Tensor, palettes: Tensor) -> Tensor:
    """Images from weights (n, slots + 1, h, w) and palettes (n, slots + 1, 3): (n, 3, h, w) in [0, 1]."""
    return torch.einsum("nshw,nsc->nchw", weights, palettes).clamp(0, 1)


def render(scene: Scene, cameras: Cameras, *, size: int = 64, samples: int = 2) -> Tensor:
    """Renders of one scene: (cameras, 3, size, size) in [0, 1]."""
    weights = trace(solid(scene.structure), cameras, size=size, samples=samples)
    return colour(weights, palette(scene).expand(len(weights), -1, -1))
