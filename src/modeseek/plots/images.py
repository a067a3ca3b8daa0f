"""Images to files: single ones, labelled sheets, and animations. Images are (n, 3, height, width) with values in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from modeseek.core.files import write_atomically
from modeseek.plots.panels import INK, save


def to_bytes(images: Tensor) -> Tensor:
    """(n, 3, h, w) in [0, 1] -> (n, h, w, 3) of bytes, rounded."""
    return (images.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu()


def enlarged(image: Tensor, least: int) -> Image.Image:
    """(h, w, 3) of bytes as an image, each pixel repeated until the shorter side has at least `least`."""
    factor = max(1, -(-least // min(image.shape[:2])))
    return Image.fromarray(image.repeat_interleave(factor, 0).repeat_interleave(factor, 1).numpy())


def save_image(path: Path, image: Tensor) -> None:
    """Write (3, h, w) as PNG, pixel for pixel, atomically."""
    file = Image.fromarray(to_bytes(image[None])[0].numpy())
    write_atomically(path, lambda temporary: file.save(temporary, format="PNG"))


def tiled(images: Tensor, columns: int) -> Tensor:
    """(n, 3, h, w) -> one image (3, rows h, columns w), white where the last row ends early."""
    rows = -(-len(images) // columns)
    blank = images.new_ones(rows * columns - len(images), *images.shape[1:])
    grid = torch.cat([images, blank]).unflatten(0, (rows, columns))
    return grid.permute(2, 0, 3, 1, 4).reshape(3, rows * images.shape[2], columns * images.shape[3])


def save_animation(path: Path, frames: Sequence[Tensor], *, milliseconds: int = 80, least: int = 256) -> None:
    """Write frames (3, h, w) as an endless GIF, the last one held for a second and a half."""
    images = [enlarged(to_bytes(frame[None])[0], least) for frame in frames]
    durations = [milliseconds] * (len(images) - 1) + [1500]
    options = {"save_all": True, "append_images": images[1:], "duration": durations, "loop": 0}
    write_atomically(path, lambda temporary: images[0].save(temporary, format="GIF", **options))


def save_sheet(
    path: Path, rows: Sequence[Tensor], *, rows_named: Sequence[str] = (), columns_named: Sequence[str] = (), width: float = 1.1
) -> None:
    """Write rows of images as one labelled PNG; rows may differ in length.

    Args:
        rows: each (n, 3, h, w).
        rows_named: written to the left of each row.
        columns_named: written above the first row.
        width: of one image, in inches.
    """
    columns = max(len(row) for row in rows)
    margin = 1.5 if rows_named else 0.1
    figure = Figure(figsize=(width * columns + margin, width * len(rows) + 0.35), layout="constrained")
    places = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(places, rows, strict=True):
        for axes in line:
            axes.set_axis_off()
        for axes, image in zip(line, to_bytes(row), strict=False):
            axes.imshow(image.numpy(), interpolation="nearest")
    for line, name in zip(places, rows_named, strict=False):
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=7, color=INK)
    for axes, name in zip(places[0], columns_named, strict=False):
        axes.set_title(name, fontsize=7, color=INK, pad=2)
    save(path, figure)
