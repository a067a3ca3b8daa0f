"""Sets of true renders of a caption, traced once and kept on disk.

A geometry is traced as weights of colour slots (`modeseek.solids.rendering`), so one file per structure and view serves every colouring.
Files live in `$MODESEEK_CACHE`, or `~/.cache/modeseek` where that is not set: 32 KiB per render. They can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

import torch
from torch import Tensor

from modeseek.core.errors import InvalidInput, OutputError
from modeseek.core.files import read_tensors, write_tensors
from modeseek.solids.captions import BACKGROUNDS, VIEWS, Scene
from modeseek.solids.rendering import Cameras, colour, palette, trace, view_cameras
from modeseek.solids.shapes import solid

KIND = "solids-renders"
TRACED_AT_ONCE = 16


def cache_folder() -> Path:
    """Folder of the traced renders: `$MODESEEK_CACHE`, else `~/.cache/modeseek`."""
    return Path(os.environ.get("MODESEEK_CACHE") or Path.home() / ".cache" / "modeseek")


def traced_weights(structure: tuple[str, ...], view: str, count: int, *, size: int = 64, seed: int = 0) -> Tensor:
    """Weights of `count` random cameras of a view, read from the cache folder or traced and written there.

    The camera set depends on the arguments alone. Tracing takes about 10 ms per render on one core; a folder that cannot be written is
    no error, the renders are then traced again by the next process.

    Args:
        structure: `Scene.structure`.
        view: one of `VIEWS`.
        count: number of cameras.
        size: side of the images in pixels.
        seed: of the cameras.

    Returns:
        (count, slots + 1, size, size) bytes, the weights times 255.

    Raises:
        InvalidInput: an unknown view, or count below 1.
        WeightsError: a file in the cache folder is broken.
    """
    if view not in VIEWS:
        raise InvalidInput(f"view {view!r} is unknown: choose {', '.join(VIEWS)}")
    if count < 1:
        raise InvalidInput(f"a set of renders has at least 1 image, got count={count}")
    path = cache_folder() / "renders" / f"{'-on-'.join(structure)}-{view}-{count}x{size}-seed{seed}.safetensors"
    if path.exists():
        return read_tensors(path, kind=KIND)[0]["weights"]
    rng = torch.Generator().manual_seed(zlib.crc32(f"{structure} {view} {seed}".encode()))
    cameras, shape = view_cameras(view, count, rng=rng), solid(structure)
    parts = []
    for group in torch.arange(count).split(TRACED_AT_ONCE):
        some = Cameras(cameras.azimuth[group], cameras.elevation[group], cameras.distance[group])
        parts.append((trace(shape, some, size=size) * 255).round().byte())
    weights = torch.cat(parts)
    with contextlib.suppress(OutputError):
        write_tensors(path, {"weights": weights}, {"modeseek": KIND})
    return weights


def true_renders(scene: Scene, view: str | None, count: int, *, size: int = 64, seed: int = 0) -> Tensor:
    """Renders of a scene from random cameras of a view: (count, 3, size, size) in [0, 1].

    Without a view the set holds all four views in equal numbers; without a background it holds all four backgrounds. `count` must then be
    a multiple of 4.

    Raises:
        InvalidInput: a count that cannot be divided evenly, or as of `traced_weights`.
    """
    views = VIEWS if view is None else (view,)
    if count % len(views) or (scene.background is None and count % len(BACKGROUNDS)):
        raise InvalidInput(f"a caption that leaves out its view or its background needs a multiple of 4 renders, got {count}")
    weights = torch.cat([traced_weights(scene.structure, v, count // len(views), size=size, seed=seed) for v in views])
    grounds = [scene.background] if scene.background else list(BACKGROUNDS)
    palettes = torch.stack([palette(Scene(**{**vars(scene), "background": grounds[k % len(grounds)]})) for k in range(count)])
    parts = [colour(w.float() / 255, p) for w, p in zip(weights.split(256), palettes.split(256), strict=True)]
    return torch.cat(parts)
