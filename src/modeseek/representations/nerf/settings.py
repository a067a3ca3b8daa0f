"""Settings of a NeRF: field, views, ray marching, shading, occupancy and regularisers, with the paper's preset and a small one."""

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
        count: views per call.
        size: (height, width).
        low: (height, width, step): another size before that step; it changes with the first new cameras from that step on. None: one size.
        distributions: distributions of the cameras, used in turn.
        accumulate: calls per step; must equal that of the loop.
        refresh: steps that use the same cameras; must equal that of the loop.
        backgrounds: (name, colour) of the backgrounds that replace the field's own in training, one drawn for each view; empty: the field's
            own. Before one background, density of its colour fits the images as well as empty space does.
    """

    count: int = 1
    size: tuple[int, int] = (64, 64)
    low: tuple[int, int, int] | None = None
    distributions: tuple[Ranges, ...] = (Ranges(),)
    accumulate: int = 1
    refresh: int = 1
    backgrounds: tuple[tuple[str, tuple[float, float, float]], ...] = ()

    def __post_init__(self) -> None:
        if min(self.count, *self.size, *(self.low or ()), self.accumulate, self.refresh) < 1 or len(self.distributions) == 0:
            raise InvalidInput(f"views need a positive count, size, accumulate and refresh, and a distribution of cameras, got {self}")

    def index(self, call: int) -> int:
        """Index of the cameras that a call uses.

        Example:
            >>> [Views(accumulate=2, refresh=3).index(call) for call in range(8)]
            [0, 1, 0, 1, 0, 1, 2, 3]
        """
        cached = self.accumulate * self.refresh
        return call // cached * self.accumulate + call % self.accumulate

    def size_of(self, call: int) -> tuple[int, int]:
        """(height, width) of the images of a call, the same for all calls with the same cameras.

        Example:
            >>> [Views(low=(32, 32, 3), refresh=2).size_of(call) for call in range(5)]
            [(32, 32), (32, 32), (32, 32), (32, 32), (64, 64)]
        """
        first = call // (self.accumulate * self.refresh) * self.refresh
        return self.size if self.low is None or first >= self.low[2] else self.low[:2]


@dataclass(frozen=True, kw_only=True)
class Shading:
    """Random shading: albedo before the step `begin`, then shaded with some probability, partly without texture (Poole et al. 2022).

    Args:
        begin: first step that may be shaded.
        shaded: probability that a call is shaded from then on.
        textureless: probability that a shaded call shows the shade without the albedo.
        ambient: fraction of ambient light.
        light: direction towards a light that is fixed in the world, (x, y, z); None: towards a random point near the camera, eye + N(0, I).
    """

    begin: int = 2001
    shaded: float = 0.75
    textureless: float = 0.5
    ambient: float = 0.1
    light: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if not all(0 <= value <= 1 for value in (self.shaded, self.textureless, self.ambient)):
            raise InvalidInput(f"shading needs probabilities and an ambient fraction in [0, 1], got {self}")

    def draw(self, cameras: Cameras, step: int, *, rng: torch.Generator | None) -> Light:
        """Sample the light of a call. Without a generator: albedo, or shaded if every call is."""
        coins = torch.rand(2, generator=rng, dtype=torch.float32) if rng is not None else torch.tensor([self.shaded < 1, True])
        shaded = step >= self.begin and bool(coins[0] < self.shaded)
        look: Look = "albedo" if not shaded else "textureless" if bool(coins[1] < self.textureless) else "shaded"
        towards = cameras.eye if self.light is None else torch.tensor(self.light).to(cameras.eye).expand_as(cameras.eye)
        if self.light is None and rng is not None:
            towards = towards + torch.randn(towards.shape, generator=rng, dtype=torch.float32).to(towards)
        return Light(look, normalize(towards, dim=1), self.ambient)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Arguments of `Occupancy`: cells along each side, steps between updates, decay, threshold of the optical depth."""

    cells: int = 32
    every: int = 16
    decay: float = 0.95
    threshold: float = 0.01


@dataclass(frozen=True, kw_only=True)
class NeRFSettings:
    """Settings of a NeRF except its seed; `paper()` and `cpu()` are the presets.

    Args:
        field, views, march, shading, regularisers: settings of the parts.
        occupancy: of the occupancy grid; None: the whole box is sampled.
        background_first: number of first steps that optimise the background only. While the background has not reached its colour, density
            of that colour fits the images equally well, and once it is opaque no gradient removes it.

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
        """Settings for a run of `steps`, of which at most a twelfth optimise the background only."""
        return replace(self, background_first=min(self.background_first, steps // 12))

    @classmethod
    def paper(cls) -> NeRFSettings:
        """The paper's NeRF (512 x 512, one view per step); what the paper leaves open is as in threestudio's DreamFusion."""
        return cls(
            field=FieldSettings(radius=2.0, grid=HashGridSettings(start=8)),
            views=Views(size=(512, 512)),
            march=March(chunk=2**20, visible=1e-4),
            shading=Shading(),
            regularisers=Regularisers.threestudio(),
        )

    @classmethod
    def cpu(cls) -> NeRFSettings:
        """A small NeRF for the `solids` prior: four views of 64 x 64 per step, its cameras, one background colour.

        The training images of that prior have one light that is fixed in the world, so the albedo includes the shade and no normals are
        needed. In the second half of a run, sparsity and opacity remove floaters that match the background.
        """
        return cls(
            field=FieldSettings(radius=1.05, grid=HashGridSettings.cpu(), hidden=32, background="constant"),
            views=Views(count=4, distributions=(Ranges.solids(),)),
            march=March(samples=96, normals="differences"),
            occupancy=Cells(decay=0.5),
            regularisers=Regularisers(sparsity=(100, 0.0, 30.0, 250), opaque=(100, 0.0, 50.0, 250)),
            background_first=20,
        )
