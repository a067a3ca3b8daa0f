"""Captioned images for training: a bank of traced geometries, coloured anew for every batch.

A image is linear in its palette (`modeseek.solids.rendering`), so one traced geometry gives every colouring of it. The bank holds the
weights of `per_view` cameras for each structure and view, a byte each; a batch picks structures, cameras, colours and backgrounds, all
from one seed. Single solids, pairs and composites come in fixed shares, however many of each there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modeseek.core.files import read_tensors, write_tensors
from modeseek.solids.attributes import labels
from modeseek.solids.captions import BACKGROUNDS, COMPOSITES, VIEWS, Scene, scenes, structures
from modeseek.solids.rendering import colour, palette, trace, view_cameras
from modeseek.solids.shapes import Solid, solid

KIND = "solids-bank"
SHARES = {"single": 0.2, "pair": 0.5, "composite": 0.3}
STRUCTURES = list(structures())


@dataclass(frozen=True)
class Batch:
    """Images (n, 3, size, size) in [0, 1] with the scenes and views they show."""

    images: Tensor
    scenes: list[Scene]
    views: list[str]

    def captions(self, *, rng: torch.Generator | None = None, silent: float = 0.0) -> list[str]:
        """Full captions; each of the two clauses is left out with probability `silent`."""
        drop = torch.rand(len(self.scenes), 2, generator=rng) < silent
        found = []
        for scene, view, (no_background, no_view) in zip(self.scenes, self.views, drop.tolist(), strict=True):
            text = scene if not no_background else Scene(**{**vars(scene), "background": None})
            found.append(text.caption(None if no_view else view))
        return found

    def labels(self) -> Tensor:
        """The attributes as class indices, in the order of `ATTRIBUTES`: (n, 6)."""
        return torch.tensor([labels(scene, view) for scene, view in zip(self.scenes, self.views, strict=True)])


class Bank:
    """Traced geometries: `weights` (structures, views, per_view, slots + 1, size, size) of bytes."""

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self.trained, self.held_out = _by_kind(held_out=False), _by_kind(held_out=True)

    def batch(self, count: int, *, seed: int, held_out: bool | None = False, backgrounds: bool = True) -> Batch:
        """`count` images with captions trained on, held out, or (None) both; the same seed gives the same batch."""
        rng = torch.Generator().manual_seed(seed)

        def pick(options: int) -> int:
            return int(torch.randint(options, (), generator=rng))

        kinds = torch.multinomial(torch.tensor(list(SHARES.values())), count, replacement=True, generator=rng).tolist()
        chosen: list[Scene] = []
        for kind in kinds:
            pool = {False: [self.trained], True: [self.held_out], None: [self.trained, self.held_out]}[held_out]
            group = pool[pick(len(pool))][kind]
            scene = group[pick(len(group))]
            chosen.append(Scene(**{**vars(scene), "background": list(BACKGROUNDS)[pick(len(BACKGROUNDS))]}) if backgrounds else scene)
        views = torch.randint(len(VIEWS), (count,), generator=rng)
        places = torch.tensor([STRUCTURES.index(scene.structure) for scene in chosen])
        cameras = torch.randint(self.weights.shape[2], (count,), generator=rng)
        weights = self.weights[places, views, cameras].float() / 255
        images = colour(weights, torch.stack([palette(scene) for scene in chosen]))
        return Batch(images, chosen, [VIEWS[view] for view in views.tolist()])


def _by_kind(*, held_out: bool) -> list[list[Scene]]:
    found: dict[str, list[Scene]] = {kind: [] for kind in SHARES}
    for scene in scenes(held_out=held_out):
        found["pair" if scene.base else "composite" if scene.shape in COMPOSITES else "single"].append(scene)
    return list(found.values())


def build_bank(folder: Path, *, per_view: int, size: int = 64, seed: int = 0) -> Iterator[tuple[int, int]]:
    """Trace every structure from every view into `folder`, one file a structure; yields (done, all) and skips what is there."""
    for done, structure in enumerate(STRUCTURES, start=1):
        path = _file(folder, structure, per_view)
        if not path.exists():
            rng = torch.Generator().manual_seed(seed * 1_000_003 + done)
            shape = solid(structure)
            views = [_traced(shape, view, per_view, size, rng) for view in VIEWS]
            write_tensors(path, {"weights": torch.stack(views)}, {"modeseek": KIND})
        yield done, len(STRUCTURES)


def _traced(shape: Solid, view: str, count: int, size: int, rng: torch.Generator) -> Tensor:
    cameras = view_cameras(view, count, rng=rng)
    groups = torch.arange(count).split(16)
    parts = [trace(shape, type(cameras)(cameras.azimuth[g], cameras.elevation[g], cameras.distance[g]), size=size) for g in groups]
    return (torch.cat(parts) * 255).round().byte()


def read_bank(folder: Path, *, per_view: int) -> Bank:
    """The bank that `build_bank` left in `folder`."""
    return Bank(torch.stack([read_tensors(_file(folder, s, per_view), kind=KIND)[0]["weights"] for s in STRUCTURES]))


def _file(folder: Path, structure: tuple[str, ...], per_view: int) -> Path:
    return folder / f"{'-on-'.join(structure)}-{per_view}.safetensors"
