"""Captioned images for training: a bank of traced geometries, coloured anew for every batch.

A render is linear in its palette (`modeseek.solids.rendering`), so one traced geometry gives every colouring of it. The bank holds the
weights of `per_view` cameras for each structure and view as bytes. A batch samples structures, cameras, colours and backgrounds from one
seed. Single solids, pairs and composites come in fixed shares, however many of each there are.

Everything but the random indices is computed where the bank lies, so a bank on a GPU feeds batches of a thousand images without the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from modeseek.core.files import read_tensors, write_tensors
from modeseek.solids.attributes import labels
from modeseek.solids.captions import BACKGROUNDS, COMPOSITES, VIEWS, Scene, scenes, structures
from modeseek.solids.rendering import Cameras, colour, palette, trace, view_cameras
from modeseek.solids.shapes import Solid, solid
from modeseek.solids.tokenizer import END, MAX_TOKENS, START, vocabulary

KIND = "solids-bank"
SHARES = {"single": 0.2, "pair": 0.5, "composite": 0.3}
STRUCTURES = list(structures())
GROUNDS = list(BACKGROUNDS)
TRACED_AT_ONCE = 16


@dataclass(frozen=True)
class Table:
    """All scenes without their background, by index.

    Attributes:
        scenes: those trained on, then those held out.
        structure: index into `STRUCTURES` of each: (scenes,).
        palettes: albedo of each before each background: (scenes, backgrounds, slots + 1, 3).
        labels: classes of the first four of `modeseek.solids.attributes.ATTRIBUTES`: (scenes, 4).
        pools: held out or not -> kind -> scene indices.
    """

    scenes: tuple[Scene, ...]
    structure: Tensor
    palettes: Tensor
    labels: Tensor
    pools: dict[bool, list[Tensor]]


@cache
def table() -> Table:
    """The table of the whole language, built once per process."""
    trained, held_out = scenes(held_out=False), scenes(held_out=True)
    every = (*trained, *held_out)
    pools: dict[bool, list[Tensor]] = {}
    for side, first, group in ((False, 0, trained), (True, len(trained), held_out)):
        kinds = ["pair" if scene.base else "composite" if scene.shape in COMPOSITES else "single" for scene in group]
        pools[side] = [torch.tensor([first + k for k, kind in enumerate(kinds) if kind == wanted]) for wanted in SHARES]
    return Table(
        scenes=every,
        structure=torch.tensor([STRUCTURES.index(scene.structure) for scene in every]),
        palettes=torch.stack([torch.stack([palette(before(scene, ground)) for ground in GROUNDS]) for scene in every]),
        labels=torch.tensor([labels(before(scene, GROUNDS[0]), VIEWS[0])[:4] for scene in every]),
        pools=pools,
    )


def before(scene: Scene, background: str | None) -> Scene:
    """The scene with a background, or with none named."""
    return Scene(**{**vars(scene), "background": background})


@cache
def caption_ids() -> Tensor:
    """Token ids of every caption: (scenes, backgrounds + 1, views + 1, tokens) in int16; the last index leaves the clause out.

    Every word of the language is one token, so the 54 000 captions are looked up word by word, without the tokenizer.
    """
    grounds, views = [*GROUNDS, None], [*VIEWS, None]
    words, _ = vocabulary()
    ids = torch.full((len(table().scenes), len(grounds), len(views), MAX_TOKENS), words[END], dtype=torch.short)
    for s, scene in enumerate(table().scenes):
        for g, ground in enumerate(grounds):
            for v, view in enumerate(views):
                caption = before(scene, ground).caption(view).replace(",", " ,").split()
                ids[s, g, v, : len(caption) + 1] = torch.tensor([words[START], *(words[f"{word}</w>"] for word in caption)])
    return ids


@cache
def empty_ids() -> Tensor:
    """Token ids of the empty caption: (tokens,) in int16."""
    words, _ = vocabulary()
    return torch.tensor([words[START]] + [words[END]] * (MAX_TOKENS - 1), dtype=torch.short)


@dataclass(frozen=True)
class Batch:
    """Images with the scenes and views they show.

    Attributes:
        images: (n, 3, size, size) in [0, 1], where the bank lies.
        scene, ground, view: (n,) indices into `table().scenes`, `GROUNDS` and `VIEWS`, on the CPU.
    """

    images: Tensor
    scene: Tensor
    ground: Tensor
    view: Tensor

    @property
    def scenes(self) -> list[Scene]:
        """Each image's scene, with its background."""
        return [before(table().scenes[s], GROUNDS[g]) for s, g in zip(self.scene.tolist(), self.ground.tolist(), strict=True)]

    @property
    def views(self) -> list[str]:
        """Each image's view."""
        return [VIEWS[view] for view in self.view.tolist()]

    def captions(self, *, rng: torch.Generator | None = None, silent: float = 0.0) -> list[str]:
        """Captions; each of the two clauses is left out with probability `silent`."""
        ground, view = self._clauses(rng, silent)
        grounds, views = [*GROUNDS, None], [*VIEWS, None]
        rows = zip(self.scene.tolist(), ground.tolist(), view.tolist(), strict=True)
        return [before(table().scenes[s], grounds[g]).caption(views[v]) for s, g, v in rows]

    def ids(self, *, rng: torch.Generator | None = None, silent: float = 0.0) -> Tensor:
        """Token ids of `captions` for the same generator: (n, tokens)."""
        ground, view = self._clauses(rng, silent)
        return caption_ids()[self.scene, ground, view].long()

    def labels(self) -> Tensor:
        """The attributes as class indices, in the order of `modeseek.solids.attributes.ATTRIBUTES`: (n, 6)."""
        return torch.cat([table().labels[self.scene], self.ground[:, None], self.view[:, None]], 1)

    def _clauses(self, rng: torch.Generator | None, silent: float) -> tuple[Tensor, Tensor]:
        drop = torch.rand(len(self.scene), 2, generator=rng) < silent
        return torch.where(drop[:, 0], len(GROUNDS), self.ground), torch.where(drop[:, 1], len(VIEWS), self.view)


class Bank:
    """Traced geometries.

    Args:
        weights: (structures, views, per_view, slots + 1, size, size) of bytes.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights
        self._palettes = table().palettes.to(weights.device)

    def to(self, device: str | torch.device) -> Bank:
        """The bank on another device; 32 KiB per geometry."""
        return Bank(self.weights.to(device))

    def batch(self, count: int, *, seed: int, held_out: bool | None = False) -> Batch:
        """`count` images of scenes trained on, held out, or (None) both in equal numbers; the same seed gives the same batch."""
        rng = torch.Generator().manual_seed(seed)
        kinds = torch.multinomial(torch.tensor(list(SHARES.values())), count, replacement=True, generator=rng)
        on_side = torch.full((count,), bool(held_out)) if held_out is not None else torch.rand(count, generator=rng) < 0.5
        share = torch.rand(count, dtype=torch.float64, generator=rng)
        scene = torch.zeros(count, dtype=torch.long)
        for side, pools in table().pools.items():
            for kind, pool in enumerate(pools):
                here = (on_side == side) & (kinds == kind)
                scene[here] = pool[(share[here] * len(pool)).long()]
        ground = torch.randint(len(GROUNDS), (count,), generator=rng)
        view = torch.randint(len(VIEWS), (count,), generator=rng)
        camera = torch.randint(self.weights.shape[2], (count,), generator=rng)
        place = [index.to(self.weights.device) for index in (table().structure[scene], view, camera)]
        weights = self.weights[place[0], place[1], place[2]].float() / 255
        images = colour(weights, self._palettes[scene.to(self.weights.device), ground.to(self.weights.device)])
        return Batch(images, scene, ground, view)


def build_bank(
    folder: Path, *, per_view: int, size: int = 64, seed: int = 0, device: str | torch.device = "cpu"
) -> Iterator[tuple[int, int]]:
    """Trace every structure from every view into `folder`, one file per structure; yields (done, all) and skips files that exist.

    About 10 ms per camera on one CPU core.
    """
    for done, structure in enumerate(STRUCTURES, start=1):
        path = _file(folder, structure, per_view)
        if not path.exists():
            rng = torch.Generator().manual_seed(seed * 1_000_003 + done)
            shape = solid(structure)
            views = [_traced(shape, view, per_view, size, rng, torch.device(device)) for view in VIEWS]
            write_tensors(path, {"weights": torch.stack(views)}, {"modeseek": KIND})
        yield done, len(STRUCTURES)


def _traced(shape: Solid, view: str, count: int, size: int, rng: torch.Generator, device: torch.device) -> Tensor:
    cameras = view_cameras(view, count, rng=rng)
    at_once = TRACED_AT_ONCE if device.type == "cpu" else 16 * TRACED_AT_ONCE
    parts = []
    for group in torch.arange(count).split(at_once):
        some = Cameras(*(part[group].to(device) for part in (cameras.azimuth, cameras.elevation, cameras.distance)))
        parts.append((trace(shape, some, size=size) * 255).round().byte().cpu())
    return torch.cat(parts)


def read_bank(folder: Path, *, per_view: int) -> Bank:
    """The bank that `build_bank` left in `folder`."""
    return Bank(torch.stack([read_tensors(_file(folder, s, per_view), kind=KIND)[0]["weights"] for s in STRUCTURES]))


def _file(folder: Path, structure: tuple[str, ...], per_view: int) -> Path:
    return folder / f"{'-on-'.join(structure)}-{per_view}.safetensors"
