"""How a step of a distillation looks in a notebook: its numbers in a table, its images as PNG, its points as a small scatter plot.

Images are recognised by their shape and range: (n, 1 or 3, h, w) with values in [0, 1] up to rounding, each side at least 8 pixels. A
latent is shown by its numbers alone.
"""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = 4  # images in a row
POINTS = 2000  # of a scatter plot; more are thinned
SIDE = 220  # of a scatter plot, in CSS pixels


def is_image_batch(x: Tensor) -> bool:
    """Whether x holds images, (n, 1 or 3, h, w) in [0, 1].

    Example:
        >>> is_image_batch(torch.rand(2, 3, 16, 16)), is_image_batch(torch.randn(2, 4, 16, 16)), is_image_batch(torch.randn(5, 2))
        (True, False, False)
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 8 or len(x) == 0:
        return False
    return bool((x.detach().min() >= -1e-3) & (x.detach().max() <= 1 + 1e-3))


def step_image(x: Tensor) -> Image.Image | None:
    """The images of x, at most four in a row and at least 128 pixels high; None where x holds none."""
    if not is_image_batch(x):
        return None
    from modeseek.plots.images import enlarged, tiled, to_bytes

    shown = x.detach().expand(-1, 3, -1, -1)
    tile = tiled(shown, min(COLUMNS, len(shown)))
    rows = -(-len(shown) // COLUMNS)
    return enlarged(to_bytes(tile[None])[0], 128 * rows)


def step_png(x: Tensor) -> bytes | None:
    """`step_image` as PNG."""
    image = step_image(x)
    if image is None:
        return None
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def step_html(step: Any) -> str:
    """A step as HTML: index, denoiser calls and the means of what its estimate reports; then its images or its points."""
    numbers: dict[str, str] = {"step": f"{step.index + 1}", "progress": f"{step.progress:.0%}", "denoiser calls": f"{step.calls:g}"}
    for name, value in step.estimate.info.items():
        if name != "calls":
            numbers[name] = f"{float(torch.as_tensor(value, dtype=torch.float64).mean()):.4g}"
    if bool(step.converged.any()):
        numbers["converged"] = f"{int(step.converged.sum())} of {len(step.converged)}"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in numbers)
    row = "".join(f"<td>{html.escape(value)}</td>" for value in numbers.values())
    png = step_png(step.x)
    if png is not None:
        shown = f'<img alt="x at step {step.index + 1}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'
    else:
        shown = scatter_svg(step.x) if step.x.ndim == 2 and step.x.shape[1] == 2 else f"<p>x: {tuple(step.x.shape)}</p>"
    return f"<table><thead><tr>{head}</tr></thead><tbody><tr>{row}</tr></tbody></table>{shown}"


def scatter_svg(x: Tensor) -> str:
    """Points (n, 2) as an SVG whose axes have the same scale; non-finite points are left out and counted."""
    points = x.detach().double().cpu()
    finite = points[points.isfinite().all(1)]
    lost = len(points) - len(finite)
    words = f"<p>{lost} of {len(points)} points are not finite</p>" if lost else ""
    if len(finite) == 0:
        return words
    shown = finite[:: -(-len(finite) // POINTS)]
    low, high = shown.min(0).values, shown.max(0).values
    scale = 0.92 * SIDE / max(float((high - low).max()), 1e-9)
    placed = (shown - (low + high) / 2) * scale
    dots = "".join(f"M{SIDE / 2 + float(a):.1f} {SIDE / 2 - float(b):.1f}h0" for a, b in placed)
    path = f'<path d="{dots}" fill="none" stroke="#c23b50" stroke-width="3" stroke-linecap="round"/>'
    return f'<svg width="{SIDE}" height="{SIDE}" role="img" aria-label="{len(shown)} points">{path}</svg>{words}'
