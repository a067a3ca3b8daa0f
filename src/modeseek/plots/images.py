"""Write images to files: single images, labelled contact sheets and animations. Images are (n, 3, height, width) in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from modeseek.core.files import write_atomically
from modeseek.plots.panels import INK, save


def to_bytes(images: Tensor) -> Tensor:
    """Convert images (n, 3, h, w) in [0, 1] to bytes (n, h, w, 3), rounded to the nearest value."""
    return (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu()


def enlarged(image: Tensor, least: int) -> Image.Image:
    """Enlarge an image (h, w, 3) of bytes by repeating pixels until its shorter side has at least `least` pixels."""
    factor = max(1, -(-least // min(image.shape[:2])))
    return Image.fromarray(image.repeat_interleave(factor, 0).repeat_interleave(factor, 1).numpy())


def save_image(path: Path, image: Tensor) -> None:
    """Write an image (3, h, w) as PNG, atomically and without resizing."""
    file = Image.fromarray(to_bytes(image[None])[0].numpy())
    write_atomically(path, lambda temporary: file.save(temporary, format="PNG"))


def tiled(images: Tensor, columns: int) -> Tensor:
    """Tile images (n, 3, h, w) into one image (3, rows h, columns w); places without an image are white."""
    rows = -(-len(images) // columns)
    blank = images.new_ones(rows * columns - len(images), *images.shape[1:])
    grid = torch.cat([images, blank]).unflatten(0, (rows, columns))
    return grid.permute(2, 0, 3, 1, 4).reshape(3, rows * images.shape[2], columns * images.shape[3])


def save_animation(path: Path, frames: Sequence[Tensor], *, milliseconds: int = 80, least: int = 256) -> None:
    """Write frames (3, h, w) as a looping GIF that shows its last frame for 1.5 s.

    Args:
        path: the file.
        frames: the images, all of one size.
        milliseconds: per frame.
        least: pixels of the shorter side; smaller frames are enlarged.
    """
    images = [enlarged(to_bytes(frame[None])[0], least) for frame in frames]
    durations = [milliseconds] * (len(images) - 1) + [1500]
    options = {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
    write_atomically(path, lambda temporary: images[0].save(temporary, format="GIF", **options))


def save_sheet(
    path: Path, rows: Sequence[Tensor], *, rows_named: Sequence[str] = (), columns_named: Sequence[str] = (), width: float = 1.1
) -> None:
    """Write rows of images as one labelled PNG. Rows may differ in length.

    Args:
        path: the file.
        rows: each (n, 3, h, w).
        rows_named: labels to the left of the rows.
        columns_named: labels above the first row.
        width: width of one image in inches, at 150 dots per inch.
    """
    columns = max(len(row) for row in rows)
    margin = 1.5 if rows_named else 0.1
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns + margin, width * len(rows) + 0.35), layout="constrained")
    places = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(places, rows, strict=True):
        for axes in line:
            axes.set_axis_off()
        for axes, image in zip(line, to_bytes(row), strict=False):
            axes.imshow(image.numpy(), interpolation="nearest")
    for line, name in zip(places, rows_named, strict=False):
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=7, color=INK, parse_math=False)
    for axes, name in zip(places[0], columns_named, strict=False):
        axes.set_title(name, fontsize=7, color=INK, pad=2, parse_math=False)
    save(path, figure)
