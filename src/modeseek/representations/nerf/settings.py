"""All of a NeRF but its seed: what a call looks at, under which light, on which grids; with the paper's preset and a small one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace

import torch
from torch.nn.functional import normalize

from modeseek.core.errors import InvalidInput
from modeseek.representations.nerf.cameras import Cameras, Ranges
from modeseek.representations.nerf.field import FieldSettings
from modeseek.representations.nerf.hashgrid import HashGridSettings
from modeseek.representations.nerf.regularisers import Regularisers
from modeseek.representations.nerf.rendering import Light, Look, March


@dataclass(frozen=True, kw_only=True)
class Views:
    """The images of one call.

    Args:
        count: views a call.
        size: (height, width).
        low: (height, width, step): another size until that step, or until the first draw of cameras after it; None: one size throughout.
        distributions: what cameras are drawn from, in turn.
        accumulate: calls a step, as the loop's.
        refresh: steps for which the same cameras come again, as the loop's.
    """

    count: int = 1
    size: tuple[int, int] = (64, 64)
    low: tuple[int, int, int] | None = None
    distributions: tuple[Ranges, ...] = (Ranges(),)
    accumulate: int = 1
    refresh: int = 1

    def __post_init__(self) -> None:
        if min(self.count, *self.size, *(self.low or ()), self.accumulate, self.refresh) < 1 or len(self.distributions) == 0:
            raise InvalidInput(f"views need a positive count, size, accumulate and refresh, and a distribution of cameras, got {self}")

    def index(self, call: int) -> int:
        """Number of the draw of cameras that a call sees.

        Example:
            >>> [Views(accumulate=2, refresh=3).index(call) for call in range(8)]
            [0, 1, 0, 1, 0, 1, 2, 3]
        """
        cached = self.accumulate * self.refresh
        return call // cached * self.accumulate + call % self.accumulate

    def size_of(self, call: int) -> tuple[int, int]:
        """(height, width) of a call's images, the same for all that share their cameras.

        Example:
            >>> [Views(low=(32, 32, 3), refresh=2).size_of(call) for call in range(5)]
            [(32, 32), (32, 32), (32, 32), (32, 32), (64, 64)]
        """
        first = call // (self.accumulate * self.refresh) * self.refresh
        return self.size if self.low is None or first >= self.low[2] else self.low[:2]


@dataclass(frozen=True, kw_only=True)
class Shading:
    """Which look a call has: albedo alone until `begin`, then shaded with a probability, some of it without texture (Poole et al. 2022).

    Args:
        begin: first step that may be shaded.
        shaded: probability of it then.
        textureless: share of the shaded calls that show the shade alone.
        ambient: share of the light that comes from everywhere.
        light: direction towards a light fixed in the world, (x, y, z); None: towards a random place around the camera, eye + N(0, I).
    """

    begin: int = 2001
    shaded: float = 0.75
    textureless: float = 0.5
    ambient: float = 0.1
    light: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for value in (self.shaded, self.textureless, self.ambient)):
            raise InvalidInput(f"the probabilities and the ambient share of a shading are in [0, 1], got {self}")

    def draw(self, cameras: Cameras, step: int, *, rng: torch.Generator | None) -> Light:
        """The light of a call; without a generator albedo, or the light that every call has."""
        coins = torch.rand(2, generator=rng, dtype=torch.float32) if rng is not None else torch.tensor([self.shaded < 1, True])
        shaded = step >= self.begin and bool(coins[0] < self.shaded)
        look: Look = "albedo" if not shaded else "textureless" if bool(coins[1] < self.textureless) else "shaded"
        towards = cameras.eye if self.light is None else torch.tensor(self.light).to(cameras.eye).expand_as(cameras.eye)
        if self.light is None and rng is not None:
            towards = towards + torch.randn(towards.shape, generator=rng, dtype=torch.float32).to(towards)
        return Light(look, normalize(towards, dim=1), self.ambient)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The occupancy grid, as `Occupancy` takes it: cells a side, steps between updates, decay, threshold of the optical depth."""

    cells: int = 32
    every: int = 16
    decay: float = 0.95
    threshold: float = 0.01


@dataclass(frozen=True, kw_only=True)
class NeRFSettings:
    """All of a NeRF but its seed; `paper()` and `cpu()` are the presets.

    Args:
        field, views, march, shading, regularisers: its parts.
        occupancy: None: the whole box is sampled.
        background_first: steps in which the background alone is learned. Before one that has not its colour yet, air of that colour
            explains the images as well, and opaque air gets no gradient that would clear it again.

    Example:
        >>> NeRFSettings.paper().views.size, NeRFSettings.cpu().views.count
        ((512, 512), 4)
    """

    field: FieldSettings = dataclasses.field(default_factory=FieldSettings)
    views: Views = Views()
    march: March = dataclasses.field(default_factory=March)
    occupancy: Cells | None = Cells()
    shading: Shading | None = None
    regularisers: Regularisers = dataclasses.field(default_factory=Regularisers)
    background_first: int = 0

    def shortened(self, steps: int) -> NeRFSettings:
        """For a run of `steps`: a twelfth of them at most goes to the background alone."""
        return replace(self, background_first=min(self.background_first, steps // 12))

    @classmethod
    def paper(cls) -> NeRFSettings:
        """The paper's NeRF (512 x 512, one view a step) with what it leaves to threestudio as that has it for DreamFusion."""
        return cls(
            field=FieldSettings(radius=2.0, grid=HashGridSettings(start=8)),
            views=Views(size=(512, 512)),
            march=March(chunk=2**20, visible=1e-4),
            shading=Shading(),
            regularisers=Regularisers.threestudio(),
        )

    @classmethod
    def cpu(cls) -> NeRFSettings:
        """Small, for the world of `modeseek.solids`: four views of 64 x 64 a step, its cameras, one background colour.

        The images of that world have one light, fixed in the world, so the albedo holds the shade and no normals are needed. In the
        second half of a run what no image needs is cleared away: air of the background's colour, most of all before a dark one.
        """
        return cls(
            field=FieldSettings(radius=1.05, grid=HashGridSettings.cpu(), hidden=32, background="constant"),
            views=Views(count=4, distributions=(Ranges.solids(),)),
            march=March(samples=96, normals="differences"),
            regularisers=Regularisers(sparsity=(100, 0.0, 30.0, 250), opaque=(100, 0.0, 50.0, 250)),
            background_first=20,
        )
