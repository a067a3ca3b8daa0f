r"""Volume rendering (Max 1995; Mildenhall et al. 2020) of the samples in occupied cells, packed ray by ray.

    depth of sample i   tau_i = density_i length_i            intervals cover the ray from where it enters the box to where it leaves
    transmittance       T_i = exp(-sum_{j<i} tau_j)           a cumulative sum over all rays, minus its value at the start of each ray
    weight              w_i = T_i (1 - exp(-tau_i))
    opacity, colour     o = sum w_i,   c = sum w_i colour_i + (1 - o) background
    distance, variance  d = sum w_i t_i / o,   sum w_i (t_i - d)^2 / o
    colour_i            albedo_i, or shade_i albedo_i, or shade_i ("textureless")
    shade_i             ambient + (1 - ambient) max(0, normal_i . light)                              Lambertian

A sample lies in its interval at a random offset that is shared along a ray (stratified), or in the middle. For a constant density the
opacity is exact with any number of samples: 1 - exp(-density thickness). Cost: all intervals are compared with the occupancy grid; the
field is evaluated at the occupied ones, or, with `visible`, at those with enough transmittance. With `chunk` the activations of the field
are recomputed in the backward pass, that many samples at a time (gradient checkpointing); only the packed samples stay in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modeseek.core.errors import InvalidInput
from modeseek.representations.nerf.cameras import Cameras
from modeseek.representations.nerf.field import Normals, Volume, evaluated
from modeseek.representations.nerf.occupancy import Occupancy

LATTICE = 2**21  # intervals compared with the occupancy grid at a time
BLOCK = 2**15  # points per evaluation of the field on a CPU
Look = Literal["albedo", "shaded", "textureless"]


@dataclass(frozen=True, kw_only=True)
class March:
    """How rays are sampled.

    Args:
        samples: intervals over the diagonal of the box.
        visible: samples with at most this transmittance are left out; they are found by a pass without gradients. 0 leaves none out.
        chunk: samples whose activations are in memory at a time; None: all.
        normals: how normals are computed where they are needed.
    """

    samples: int = 512
    visible: float = 0.0
    chunk: int | None = None
    normals: Normals = "autograd"

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 <= self.visible < 1 or (self.chunk is not None and self.chunk < 1):
            raise InvalidInput(f"a march needs at least one sample, visible in [0, 1) and a chunk of at least one, got {self}")
        if self.normals not in ("autograd", "differences"):
            raise InvalidInput(f"normals={self.normals!r} is unknown: choose autograd or differences")

    def step(self, radius: float) -> float:
        """Length of an interval in the box [-radius, radius]^3."""
        return 2 * math.sqrt(3) * radius / self.samples


@dataclass(frozen=True)
class Light:
    """The shading of a call.

    Attributes:
        look: "albedo", "shaded", or "textureless" (the shade without the albedo).
        direction: (views, 3) unit vectors towards the light of each view; not used by "albedo".
        ambient: fraction of ambient light.
    """

    look: Look
    direction: Tensor
    ambient: float


@dataclass(frozen=True)
class Packed:
    """Samples of `rays` rays, sorted by ray and by distance: ray (s,), distance (s,), length (s,)."""

    ray: Tensor
    distance: Tensor
    length: Tensor
    rays: int

    def select(self, kept: Tensor) -> Packed:
        """Return the samples of a mask or a slice."""
        return Packed(self.ray[kept], self.distance[kept], self.length[kept], self.rays)


@dataclass(frozen=True)
class Rendering:
    """Images of a volume and the samples behind them; h and w in pixels, s samples.

    Attributes:
        image: (views, 3, h, w).
        opacity, depth, variance: (views, 1, h, w); depth and variance are of the distance along the ray, 0 where the opacity is 0.
        normals: (views, 3, h, w), sum of w_i normal_i; None if they were not needed.
        samples: the packed samples.
        weights: (s,).
        sample_normals: (s, 3) or None.
        directions: (views h w, 3) of the rays.
    """

    image: Tensor
    opacity: Tensor
    depth: Tensor
    variance: Tensor
    normals: Tensor | None
    samples: Packed
    weights: Tensor
    sample_normals: Tensor | None
    directions: Tensor


def render(
    volume: Volume,
    cameras: Cameras,
    size: tuple[int, int],
    *,
    march: March,
    occupancy: Occupancy | None = None,
    light: Light | None = None,
    normals: bool = False,
    rng: torch.Generator | None = None,
) -> Rendering:
    """Render images of a volume.

    Args:
        volume: density, albedo and background; outside its box there is only background.
        cameras: n views.
        size: (height, width).
        march: how rays are sampled.
        occupancy: the cells to sample; None: all.
        light: None: albedo.
        normals: whether to compute normals where the light needs none.
        rng: for the random offset of each ray in its intervals; None: the middle.
    """
    origins, directions = (part.flatten(0, 2) for part in cameras.rays(size))
    jitter = None if rng is None else torch.rand(len(origins), generator=rng, dtype=torch.float32).to(origins)
    look: Look = "albedo" if light is None else light.look
    wanted = march.normals if normals or look != "albedo" else None
    with torch.no_grad():
        packed = marched(origins, directions, radius=volume.radius, samples=march.samples, jitter=jitter, occupancy=occupancy)
        if march.visible:
            packed = packed.select(reached(volume, packed, origins, directions) > march.visible)
    evaluate = lambda points: evaluated(volume, points, wanted, step=march.step(volume.radius) / 4)  # noqa: E731
    points = origins[packed.ray] + packed.distance[:, None] * directions[packed.ray]
    density, albedo, found = in_chunks(evaluate, points, march.chunk)
    colour = albedo
    if light is not None and found is not None and look != "albedo":
        towards = light.direction.to(found)[packed.ray // (size[0] * size[1])]
        shade = light.ambient + (1 - light.ambient) * (found * towards).sum(1, keepdim=True).clamp_min(0)
        colour = shade * albedo if look == "shaded" else shade.expand_as(albedo)
    return _composite(packed, density, colour, found, volume.background(directions), directions, (len(cameras), *size))


def box(origins: Tensor, directions: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave the box [-radius, radius]^3: 0 for an origin inside, equal for a ray that misses the box."""
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    first, second = (-radius - origins) / safe, (radius - origins) / safe
    near = torch.minimum(first, second).amax(-1).clamp_min(0)
    return near, torch.maximum(torch.maximum(first, second).amin(-1), near)


def marched(
    origins: Tensor, directions: Tensor, *, radius: float, samples: int, jitter: Tensor | None, occupancy: Occupancy | None
) -> Packed:
    """Samples of rays (n, 3) in occupied cells."""
    near, far = box(origins, directions, radius)
    step = 2 * math.sqrt(3) * radius / samples
    place = torch.full_like(near, 0.5) if jitter is None else jitter
    parts = []
    for begin in range(0, len(near), max(1, LATTICE // samples)):
        block = slice(begin, begin + max(1, LATTICE // samples))
        count = int(((far[block] - near[block]) / step).ceil().max())
        start = near[block, None] + step * torch.arange(count, device=near.device)
        length = (far[block, None] - start).clamp(max=step)  # the last interval ends where the ray leaves the box
        distance = start + place[block, None] * length
        kept = length > 1e-6 * step
        if occupancy is not None:
            kept &= occupancy.at(tuple(torch.addcmul(origins[block, k, None], distance, directions[block, k, None]) for k in range(3)))
        ray, column = kept.nonzero(as_tuple=True)
        parts.append((ray + begin, distance[ray, column], length[ray, column]))
    ray, distance, length = (torch.cat(column) for column in zip(*parts, strict=True))
    return Packed(ray, distance, length, len(near))


def light_before(depth: Tensor, ray: Tensor) -> Tensor:
    """Transmittance T_i of packed samples with optical depths (s,): exp(-sum of the depths before it on the same ray)."""
    exact = torch.float32 if depth.device.type == "mps" else torch.float64  # sums run over all rays; mps has no float64
    before = depth.to(exact).cumsum(0) - depth
    first = torch.searchsorted(ray, ray)  # first sample of the same ray; rays are sorted
    return (before.index_select(0, first) - before).to(depth).exp()


def reached(volume: Volume, packed: Packed, origins: Tensor, directions: Tensor) -> Tensor:
    """Transmittance of each sample."""
    densities = [
        volume.density(origins[part.ray] + part.distance[:, None] * directions[part.ray])
        for part in (
            packed.select(torch.arange(len(packed.ray), device=packed.ray.device)[k : k + 2**18]) for k in range(0, len(packed.ray), 2**18)
        )
    ]
    return light_before(torch.cat(densities) * packed.length, packed.ray) if densities else packed.length


def in_chunks(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor, Tensor | None]], points: Tensor, chunk: int | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Call `evaluate` on all points, or on `chunk` points at a time with gradient checkpointing.

    On a CPU each call gets at most `BLOCK` points, whose intermediate results fit its cache: the same values for a third of the time.
    """
    if chunk is not None and len(points) > chunk and torch.is_grad_enabled():
        inner = lambda part: in_chunks(evaluate, part, None)  # noqa: E731
        return _joined([checkpoint(inner, part, use_reentrant=False, preserve_rng_state=False) for part in points.split(chunk)])
    block = chunk if points.device.type != "cpu" else min(chunk or BLOCK, BLOCK)
    return evaluate(points) if block is None or len(points) <= block else _joined([evaluate(part) for part in points.split(block)])


def _joined(parts: list[tuple[Tensor, Tensor, Tensor | None]]) -> tuple[Tensor, Tensor, Tensor | None]:
    density, albedo, normals = zip(*parts, strict=True)
    return torch.cat(density), torch.cat(albedo), None if normals[0] is None else torch.cat(normals)


def _composite(
    packed: Packed,
    density: Tensor,
    colour: Tensor,
    normals: Tensor | None,
    background: Tensor,
    directions: Tensor,
    shape: tuple[int, int, int],
) -> Rendering:
    depth = density * packed.length
    weights = light_before(depth, packed.ray) * -torch.expm1(-depth)

    def summed(values: Tensor) -> Tensor:
        return values.new_zeros(packed.rays, values.shape[1]).index_add(0, packed.ray, weights[:, None] * values)

    columns = [torch.ones_like(weights)[:, None], packed.distance[:, None].to(weights), colour]
    total = summed(torch.cat(columns if normals is None else [*columns, normals], 1))
    opacity = total[:, :1]
    safe = opacity.clamp_min(1e-6)
    middle = total[:, 1:2] / safe
    variance = summed((packed.distance[:, None] - middle[packed.ray]) ** 2) / safe
    planes = [total[:, 2:5] + (1 - opacity) * background, opacity, middle, variance]
    image, opacity, middle, variance = (_image(plane, shape) for plane in planes)
    plane = None if normals is None else _image(total[:, 5:], shape)
    return Rendering(image, opacity, middle, variance, plane, packed, weights, normals, directions)


def _image(values: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(views h w, channels) -> (views, channels, h, w)."""
    return values.reshape(*shape, -1).permute(0, 3, 1, 2)
