r"""A neural radiance field as a representation: forward gives images (views, 3, h, w) in [0, 1] from random cameras.

    forward()  in training         samples cameras, shading and ray offsets, updates the occupancy grid when it is due, renders,
                                   attaches the regularisers to the images, counts the call
    forward()  otherwise           renders the cameras of the last call, with samples in the middle of their intervals; counts nothing

"In training" means `module.training` with gradients recorded, so rendering under `no_grad` between two steps changes nothing. Every random
number of a call comes from a generator seeded by (seed, purpose, number of the call). So the state of the module is the number of calls,
the parameters and the occupancy grid, and a resumed run gives the same bits (on CUDA, scatters add in any order: use PyTorch's
deterministic algorithms). `cameras` are those of the last call; their `names` extend the prompt.

With several `ranks`, each renders its shard of the views of a call and gets all images; everything else is the same on every rank.

A loop with several passes per step (`accumulate`) or with a target that serves several steps (`refresh`) needs the same cameras each time
it uses the same target: set both in `Views`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modeseek.representations.nerf.cameras import Cameras, draw
from modeseek.representations.nerf.field import Field
from modeseek.representations.nerf.occupancy import Occupancy
from modeseek.representations.nerf.regularisers import attach
from modeseek.representations.nerf.rendering import Light, Rendering, render
from modeseek.representations.nerf.settings import NeRFSettings
from modeseek.scaling.ranks import ALONE, Ranks


class NeRF(nn.Module):
    """A volume to distil or to fit; the module's docstring says what a call does.

    Args:
        settings: everything except the seed.
        seed: for the initial weights and for all random numbers of calls.

    Attributes:
        field: density, albedo and background, a `Volume`.
        occupancy: the occupancy grid, or None.
        cameras: of the last call.
        calls: training calls so far.
        ranks: the processes that divide the views of a call; set it if there are several.

    Example:
        >>> from modeseek.representations.nerf import FieldSettings, HashGridSettings, Views
        >>> nerf = NeRF(NeRFSettings(field=FieldSettings(grid=HashGridSettings.cpu()), views=Views(count=2, size=(8, 8))), seed=3)
        >>> nerf().shape, len(nerf.cameras.names), nerf.calls
        (torch.Size([2, 3, 8, 8]), 2, 1)
    """

    def __init__(self, settings: NeRFSettings, *, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.seed, self.calls = settings, seed, 0
        self.ranks: Ranks = ALONE
        self.field = Field(settings.field, rng=self._rng("weights", 0))
        cells = settings.occupancy
        self.occupancy = Occupancy(radius=settings.field.radius, **vars(cells)) if cells is not None else None
        self.cameras = self._drawn()

    @classmethod
    def paper(cls, *, seed: int = 0, **changes: Any) -> NeRF:
        """`NeRFSettings.paper()` with some fields changed."""
        return cls(replace(NeRFSettings.paper(), **changes), seed=seed)

    @classmethod
    def cpu(cls, *, seed: int = 0, **changes: Any) -> NeRF:
        """`NeRFSettings.cpu()` with some fields changed."""
        return cls(replace(NeRFSettings.cpu(), **changes), seed=seed)

    @property
    def step(self) -> int:
        """Optimiser steps so far: calls divided by calls per step."""
        return self.calls // self.settings.views.accumulate

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images of the last call."""
        return self.settings.views.size_of(max(0, self.calls - 1))

    @property
    def view_names(self) -> list[str]:
        """The words for the views of the last call, with their backgrounds where those are drawn: "navy background, side"."""
        chosen = self._backgrounds(max(0, self.calls - 1))
        named = [f"{self.settings.views.backgrounds[k][0]} background, " for k in chosen] if chosen else [""] * len(self.cameras)
        return [background + name for background, name in zip(named, self.cameras.names, strict=True)]

    def forward(self, cameras: Cameras | None = None, size: tuple[int, int] | None = None) -> Tensor:
        """Render images of the given cameras and size, or of those that this call samples."""
        if not (self.training and torch.is_grad_enabled()):
            seen = cameras if cameras is not None else self.cameras
            return self.ranks.map_shards(len(seen), lambda own: self.render(_some(seen, own), size).image)
        drawn = cameras if cameras is not None else self._drawn()
        shown = size or self.settings.views.size_of(self.calls)
        self._update()
        light = self._light(drawn, self.step, self._rng("light", self.calls))
        image = self.ranks.map_shards(len(drawn), lambda own: self._shown(drawn, own, shown, light))
        self.cameras = drawn
        self.calls += 1
        return image

    def render(self, cameras: Cameras | None = None, size: tuple[int, int] | None = None, *, normals: bool = False) -> Rendering:
        """Render without random numbers and without counting the call; `cameras` None: those of the last call."""
        cameras = cameras if cameras is not None else self.cameras
        return self._render(cameras, size, self._light(cameras, self.step, None), self.step, None, normals=normals)

    def groups(self, lr: float, *, background: float | None = None) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser: the volume at the learning rate `rate`, the background at `background` times it.

        By default that factor is 0.1 for a network (threestudio: 0.01 and 0.001) and 1 for a constant colour; a fixed one is in no group.

        Example:
            >>> nerf = NeRF.cpu()
            >>> factory = lambda parameters, lr: torch.optim.Adam(nerf.groups(lr), betas=(0.9, 0.99), eps=1e-15)
            >>> [group["lr"] for group in factory(None, 0.5).param_groups]
            [0.5, 0.5]
        """
        share = background if background is not None else 0.1 if self.settings.field.background == "mlp" else 1.0
        behind = ("field.background_head.", "field.colour")
        named: Iterable[tuple[str, nn.Parameter]] = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        parts = [[p for name, p in named if name.startswith(behind) == is_behind] for is_behind in (False, True)]
        return [{"params": parts[0], "lr": lr}, {"params": parts[1], "lr": lr * share}]

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = int(state["calls"])
        self.cameras = self._drawn(max(0, self.calls - 1))

    def _rng(self, what: str, number: int) -> torch.Generator:
        """A separate generator for each purpose and number; the CPU generator of PyTorch uses 32 bits of a seed."""
        digest = hashlib.blake2b(f"{self.seed} {what} {number}".encode(), digest_size=4).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "little"))

    def _drawn(self, call: int | None = None) -> Cameras:
        views = self.settings.views
        number = views.index(self.calls if call is None else call)
        return draw(views.distributions, views.count, rng=self._rng("cameras", number))

    def _backgrounds(self, call: int) -> list[int]:
        """The indices of the backgrounds that the views of a call have; empty: the field's own background."""
        views = self.settings.views
        drawn = torch.randint(max(1, len(views.backgrounds)), (views.count,), generator=self._rng("backgrounds", views.index(call)))
        return drawn.tolist() if views.backgrounds else []

    def _light(self, cameras: Cameras, step: int, rng: torch.Generator | None) -> Light | None:
        return None if self.settings.shading is None else self.settings.shading.draw(cameras, step, rng=rng)

    def _update(self) -> None:
        """Update the occupancy grid at the first call of a step at which it is due."""
        first = self.calls % self.settings.views.accumulate == 0
        if self.occupancy is not None and first and self.step % self.occupancy.every == 0:
            self.field.use(self.step)
            length = self.settings.march.step(self.field.radius)
            self.occupancy.update(self.field, step_length=length, rng=self._rng("cells", self.step))

    def _shown(self, cameras: Cameras, own: slice, size: tuple[int, int], light: Light | None) -> Tensor:
        """Render some of the views of a training call with their part of the regularisers; random numbers are those of the whole call."""
        height, width = size
        rng = self._rng("rays", self.calls)
        torch.rand(own.start * height * width, generator=rng, dtype=torch.float32)  # skip the offsets of the views before
        if light is not None:
            light = replace(light, direction=light.direction[own])
        alone = self.step < self.settings.background_first
        with torch.set_grad_enabled(not alone):
            rendering = self._render(_some(cameras, own), size, light, self.step, rng)
        if alone:
            behind = self.field.background(rendering.directions).unflatten(0, (-1, height, width)).movedim(3, 1)
            return rendering.image + (1 - rendering.opacity) * (behind - behind.detach())
        image = rendering.image
        if chosen := self._backgrounds(self.calls)[own]:
            colours = torch.tensor([self.settings.views.backgrounds[k][1] for k in chosen]).to(image)
            behind = self.field.background(rendering.directions).unflatten(0, (-1, height, width)).movedim(3, 1)
            image = image + (1 - rendering.opacity) * (colours[:, :, None, None] - behind)
        if not self.settings.regularisers.weights(self.step):
            return image
        count = len(cameras)
        penalty = count * self.settings.regularisers.penalty(rendering, self.step, lambda here: self.ranks.sum(here, count))
        return attach(image, penalty) if own == self.ranks.shard(count) else rendering.image

    def _render(
        self,
        cameras: Cameras,
        size: tuple[int, int] | None,
        light: Light | None,
        step: int,
        rng: torch.Generator | None,
        *,
        normals: bool = False,
    ) -> Rendering:
        self.field.use(step)
        like = next(self.parameters())
        if light is not None:
            light = Light(light.look, light.direction.to(like), light.ambient)
        normals = normals or (rng is not None and self.settings.regularisers.needs_normals(step))
        return render(
            self.field,
            cameras.to(like),
            size or self.size,
            march=self.settings.march,
            occupancy=self.occupancy,
            light=light,
            normals=normals,
            rng=rng,
        )


def _some(cameras: Cameras, chosen: slice) -> Cameras:
    return cameras[range(len(cameras))[chosen]]
