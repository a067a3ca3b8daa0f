r"""Cameras around the origin: their rays, random distributions of them, and the words for their views.

    eye = distance (cos e cos a, cos e sin a, sin e)          z up; azimuth a = 0 is the front, +x; elevation e; degrees
    ray(row, column) = eye + t unit(-back + u right - v up)   u, v = +-tan(fov / 2) at the edges, pixels at their centres

The field of view is the vertical one. `Ranges` samples cameras as threestudio does by default: the elevation is uniform in angle or uniform
on the sphere with equal probability, the azimuths are stratified (one in each of as many equal sectors as there are views), and the eye
(uniform), the target and the up vector (normal) are shifted slightly. The word for a view extends the prompt; it is that of the camera
before the shift.

Cameras are sampled from the given generator on the CPU, so they are the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from modeseek.core.errors import InvalidInput

VIEWS = ("front", "side", "back", "overhead")
PARTS = ("eye", "target", "up", "fov", "azimuth", "elevation", "distance")  # the tensors of `Cameras`


def view_name(azimuth: float, elevation: float, *, front: float = 45.0, overhead: float = 60.0) -> str:
    """Return the word for a view: "overhead" above that elevation; else "front" or "back" within `front` degrees of it; else "side".

    Example:
        >>> [view_name(azimuth, 10.0) for azimuth in (350.0, 90.0, -170.0)], view_name(0.0, 70.0)
        (['front', 'side', 'back'], 'overhead')
    """
    turned = abs((azimuth + 180) % 360 - 180)
    if elevation > overhead:
        return "overhead"
    return "front" if turned < front else "back" if turned > 180 - front else "side"


@dataclass(frozen=True)
class Cameras:
    """Pinhole cameras; `Cameras.orbit` makes cameras that look at the origin.

    Attributes:
        eye: (n, 3) positions.
        target: (n, 3) points looked at.
        up: (n, 3) approximate upward directions in the image.
        fov: (n,) vertical field of view, degrees.
        azimuth, elevation, distance: (n,) position of the eye before any shift, degrees.
        names: the word for each view.
    """

    eye: Tensor
    target: Tensor
    up: Tensor
    fov: Tensor
    azimuth: Tensor
    elevation: Tensor
    distance: Tensor
    names: tuple[str, ...]

    @classmethod
    def orbit(
        cls,
        azimuth: Sequence[float] | Tensor,
        elevation: Sequence[float] | Tensor | float = 0.0,
        *,
        distance: Sequence[float] | Tensor | float = 3.2,
        fov: Sequence[float] | Tensor | float = 40.0,
        front: float = 45.0,
        overhead: float = 60.0,
    ) -> Cameras:
        """Make cameras that look at the origin; a single number is used for all of them.

        Raises:
            InvalidInput: no camera, lengths that differ, a distance of 0 or less, or a field of view outside (0, 180).

        Example:
            >>> Cameras.orbit([0.0, 90.0]).eye.round(decimals=3) + 0.0
            tensor([[3.2000, 0.0000, 0.0000],
                    [0.0000, 3.2000, 0.0000]])
        """
        a = torch.as_tensor(azimuth)
        a = a if a.is_floating_point() else a.to(torch.get_default_dtype())
        try:
            e, d, f = (torch.as_tensor(value).to(a).expand(a.shape) for value in (elevation, distance, fov))
        except RuntimeError:
            raise InvalidInput(f"{len(a)} azimuths need one elevation, distance and field of view, or {len(a)} of each") from None
        if a.ndim != 1 or len(a) == 0 or not bool((d > 0).all()) or not bool(((f > 0) & (f < 180)).all()):
            raise InvalidInput("cameras need a list of azimuths, distances above 0 and fields of view between 0 and 180 degrees")
        az, el = a.deg2rad(), e.deg2rad()
        eye = d[:, None] * torch.stack([el.cos() * az.cos(), el.cos() * az.sin(), el.sin()], 1)
        names = tuple(view_name(float(x), float(y), front=front, overhead=overhead) for x, y in zip(a, e, strict=True))
        # straight above or below, z is parallel to the viewing direction; up then points away from the front
        steep = (el.cos() < 1e-4)[:, None]
        level = torch.stack([-az.cos() * el.sin().sign(), -az.sin() * el.sin().sign(), torch.zeros_like(az)], 1)
        up = torch.where(steep, level, eye.new_tensor([0.0, 0.0, 1.0]))
        return cls(eye, torch.zeros_like(eye), up, f, a, e, d, names)

    def __len__(self) -> int:
        return len(self.eye)

    def __getitem__(self, chosen: Sequence[int] | Tensor) -> Cameras:
        """Select cameras by a list of indices."""
        index = torch.as_tensor(chosen)
        return self._each(lambda part: part[index], tuple(self.names[int(k)] for k in index))

    def to(self, like: Tensor) -> Cameras:
        """Return the cameras with the device and dtype of a tensor."""
        return self._each(lambda part: part.to(like), self.names)

    def _each(self, change: Callable[[Tensor], Tensor], names: tuple[str, ...]) -> Cameras:
        return Cameras(**{name: change(getattr(self, name)) for name in PARTS}, names=names)

    def axes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors right, up and back of each camera, (n, 3) each; a camera looks along -back."""
        back = normalize(self.eye - self.target, dim=1)
        right = normalize(torch.linalg.cross(self.up, back), dim=1)
        return right, torch.linalg.cross(back, right), back

    def rays(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Origins and unit directions of (height, width) pixels, rows from the top: (n, height, width, 3) each."""
        (height, width), (right, up, back) = size, self.axes()
        half = (self.fov.deg2rad() / 2).tan()
        v, u = (((torch.arange(count).to(half) + 0.5) * 2 - count) / height for count in (height, width))
        u, v = half[:, None, None] * u[None, None, :], half[:, None, None] * v[None, :, None]
        along = -back[:, None, None] + u[..., None] * right[:, None, None] - v[..., None] * up[:, None, None]
        return self.eye[:, None, None].expand_as(along), normalize(along, dim=-1)

    def project(self, points: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Project points (m, 3): (row, column) in pixels with centres at halves (n, m, 2), and depth along the axis (n, m)."""
        (height, width), axes = size, self.axes()
        offset = points[None] - self.eye[:, None]
        x, y, z = (torch.einsum("nmc,nc->nm", offset, axis) for axis in axes)
        scale = height / (2 * (self.fov.deg2rad() / 2).tan()[:, None] * -z)
        return torch.stack([height / 2 - y * scale, width / 2 + x * scale], -1), -z


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """A distribution of cameras; the defaults are those of threestudio for text to 3-D with Stable Diffusion.

    Args:
        azimuth, elevation, fov: (lowest, highest) in degrees.
        distance: (lowest, highest).
        spherical: probability that the elevations of a sample are uniform on the sphere instead of in angle.
        eye: largest shift of the eye along each axis.
        target, up: standard deviations of the shifts of the target and of the up vector.
        front, overhead: thresholds of `view_name`.

    Example:
        >>> Ranges.solids().draw(4, rng=torch.Generator().manual_seed(0)).names
        ('overhead', 'front', 'overhead', 'side')
    """

    azimuth: tuple[float, float] = (-180.0, 180.0)
    elevation: tuple[float, float] = (-10.0, 45.0)
    distance: tuple[float, float] = (1.5, 2.0)
    fov: tuple[float, float] = (40.0, 70.0)
    spherical: float = 0.5
    eye: float = 0.1
    target: float = 0.2
    up: float = 0.02
    front: float = 45.0
    overhead: float = 60.0

    def __post_init__(self) -> None:
        pairs = {name: getattr(self, name) for name in ("azimuth", "elevation", "distance", "fov")}
        wrong = [name for name, (low, high) in pairs.items() if low > high]
        inside = self.distance[0] > 0 and self.fov[0] > 0 and self.fov[1] < 180 and max(map(abs, self.elevation)) <= 90
        if wrong or not inside or not 0 <= self.spherical <= 1 or min(self.eye, self.target, self.up) < 0:
            raise InvalidInput(f"cameras need (lowest, highest), distances above 0, elevations in [-90, 90], 0 < fov < 180, got {self}")

    @classmethod
    def solids(cls) -> Ranges:
        """Cameras for the `solids` prior: its distance and field of view, all azimuths, from its lowest elevation to its highest.

        The prior was trained on elevations up to 32 degrees, and on overhead views from 55 degrees; the threshold is half way between.
        """
        at = cls(elevation=(8.0, 75.0), distance=(3.104, 3.296), fov=(40.0, 40.0), overhead=43.5)
        return replace(at, spherical=0.0, eye=0.0, target=0.0, up=0.0)

    @classmethod
    def solids_views(cls) -> tuple[Ranges, ...]:
        """The views on which the `solids` prior was trained: front, both sides, back, and overhead near the front."""
        around = [replace(cls.solids(), azimuth=(at - 30.0, at + 30.0), elevation=(8.0, 32.0)) for at in (0, 90, 180, 270)]
        return (*around, replace(cls.solids(), azimuth=(-30.0, 30.0), elevation=(55.0, 75.0)))

    def draw(self, count: int, *, rng: torch.Generator) -> Cameras:
        """Sample `count` cameras."""

        def uniform(low: float, high: float, *size: int) -> Tensor:
            return low + (high - low) * torch.rand(*(size or (count,)), generator=rng, dtype=torch.float32)

        low, high = self.azimuth
        azimuth = low + (high - low) * (torch.arange(count) + uniform(0, 1)) / count
        on_sphere = bool(torch.rand((), generator=rng) < self.spherical)
        lowest, highest = (math.sin(math.radians(value)) for value in self.elevation)
        elevation = uniform(lowest, highest).asin().rad2deg() if on_sphere else uniform(*self.elevation)
        drawn = Cameras.orbit(
            azimuth, elevation, distance=uniform(*self.distance), fov=uniform(*self.fov), front=self.front, overhead=self.overhead
        )
        return replace(
            drawn,
            eye=drawn.eye + uniform(-self.eye, self.eye, count, 3),
            target=drawn.target + self.target * torch.randn(count, 3, generator=rng, dtype=torch.float32),
            up=drawn.up + self.up * torch.randn(count, 3, generator=rng, dtype=torch.float32),
        )


def draw(distributions: Sequence[Ranges], count: int, *, rng: torch.Generator) -> Cameras:
    """Sample cameras from several distributions in turn, from a random one on: `len(distributions)` views have one of each.

    Raises:
        InvalidInput: no distribution, or no view.
    """
    if count < 1 or len(distributions) == 0:
        raise InvalidInput(f"cameras need at least one distribution and at least one view, got {len(distributions)} and {count}")
    if len(distributions) == 1:
        return distributions[0].draw(count, rng=rng)
    first = int(torch.randint(len(distributions), (), generator=rng))
    drawn = [distributions[(first + k) % len(distributions)].draw(1, rng=rng) for k in range(count)]
    parts = {part: torch.cat([getattr(one, part) for one in drawn]) for part in PARTS}
    return Cameras(**parts, names=tuple(name for one in drawn for name in one.names))
