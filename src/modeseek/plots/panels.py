"""Figures as PNG: rows of panels with points over their density or with potentials, and plots of curves."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from modeseek.core.files import write_atomically
from modeseek.densities import GaussianMixture

if TYPE_CHECKING:  # matplotlib is imported where a figure is drawn: commands start half a second earlier
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HALF_WIDTH = 1.5
TITLE_WIDTH = 28  # letters in a line of a panel's title
INK = "#20262e"
POINT = "#d1495b"


@dataclass(frozen=True)
class PointsPanel:
    """A panel that shows points (n, 2) over the support of their density; `points` is None if the run diverged."""

    title: str
    points: Tensor | None
    density: GaussianMixture


@dataclass(frozen=True)
class PotentialPanel:
    """A panel that shows a potential (n, n) over [-1.5, 1.5]^2; low values, where a descent ends, are dark."""

    title: str
    potential: Tensor


Panel = PointsPanel | PotentialPanel
_DEPTH = 12.0  # nats below the maximum at which a density is drawn white


@lru_cache(maxsize=32)
def support(density: GaussianMixture, size: int = 240) -> np.ndarray:
    """The log density minus its maximum on a grid over [-1.5, 1.5]^2, clipped from below: (size, size), indexed by [y, x]."""
    ticks = torch.linspace(-HALF_WIDTH, HALF_WIDTH, size)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    values = density.log_prob(torch.stack([x.flatten(), y.flatten()], 1)).reshape(size, size)
    return (values - values.max()).clamp(min=-_DEPTH).numpy()


def window(density: GaussianMixture) -> tuple[float, float, float, float]:
    """The square around the visible support of a density, with a margin: (left, right, bottom, top)."""
    rows, columns = np.nonzero(support(density) > 1 - _DEPTH)
    scale = 2 * HALF_WIDTH / (support(density).shape[0] - 1)
    left, right = columns.min() * scale - HALF_WIDTH, columns.max() * scale - HALF_WIDTH
    bottom, top = rows.min() * scale - HALF_WIDTH, rows.max() * scale - HALF_WIDTH
    half = 0.5 * max(right - left, top - bottom) + 0.1
    x, y = 0.5 * (left + right), 0.5 * (bottom + top)
    return x - half, x + half, y - half, y + half


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw one panel into matplotlib axes."""
    extent = (-HALF_WIDTH, HALF_WIDTH, -HALF_WIDTH, HALF_WIDTH)
    if isinstance(panel, PointsPanel):
        axes.imshow(support(panel.density), extent=extent, origin="lower", cmap="Greys", vmin=-_DEPTH, vmax=6, interpolation="bilinear")
        if panel.points is not None and bool(panel.points.isfinite().all()):
            shown = panel.points[torch.randperm(len(panel.points), generator=torch.Generator().manual_seed(0))[:3000]]
            axes.scatter(shown[:, 0], shown[:, 1], s=1.2, c=POINT, alpha=0.7, linewidths=0)
        else:
            axes.text(0, 0, "diverged", ha="center", color=POINT)
    else:
        values = panel.potential.T.numpy()
        low, high = np.percentile(values, [0.5, 99.5])
        axes.imshow(values, extent=extent, origin="lower", cmap="magma", vmin=low, vmax=high, interpolation="bilinear")
        ticks = np.linspace(-HALF_WIDTH, HALF_WIDTH, len(values))
        axes.contour(ticks, ticks, values, levels=np.linspace(low, high, 12), colors="white", linewidths=0.3, alpha=0.6)
    left, right, bottom, top = window(panel.density) if isinstance(panel, PointsPanel) else extent
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    axes.set_title(textwrap.fill(panel.title, TITLE_WIDTH), fontsize=8, color=INK, pad=3, parse_math=False)


def save_grid(path: Path, rows: Sequence[Sequence[Panel]], *, labels: Sequence[str] = (), width: float = 1.9) -> None:
    """Write rows of panels as PNG.

    Args:
        path: the file.
        rows: the panels; rows may differ in length.
        labels: to the left of the rows.
        width: width of one panel in inches.
    """
    columns = max(len(row) for row in rows)
    from matplotlib.figure import Figure

    head = 0.4 if any(len(panel.title) > TITLE_WIDTH for row in rows for panel in row) else 0.25  # inches above a panel
    figure = Figure(figsize=(width * columns + 0.3, (width + head) * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for place in line[len(row) :]:
            place.set_axis_off()
        for place, panel in zip(line, row, strict=False):
            draw_panel(place, panel)
    for line, label in zip(axes, labels, strict=False):
        line[0].set_ylabel(label, fontsize=9, color=INK)
    save(path, figure)


@dataclass(frozen=True)
class Curve:
    """A labelled series of points; `dots` leaves them unconnected, `line`, `colour` and `marker` are matplotlib's."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False
    line: str = "-"
    colour: str | None = None
    marker: str = "o"


def save_curves(path: Path, panels: Sequence[tuple[str, str, str, Sequence[Curve]]], *, log_x: bool = False, log_y: bool = False) -> None:
    """Write plots next to each other as PNG. Plots whose curves have the same labels share one legend.

    Args:
        path: the file.
        panels: each (title, x label, y label, curves).
        log_x: logarithmic horizontal axes.
        log_y: logarithmic vertical axes.
    """
    shared = len(panels) > 1 and len({tuple(curve.label for curve in panel[3]) for panel in panels}) == 1
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(4.2 * len(panels) + 2.4 * shared, 3.4), layout="constrained")
    for axes, (title, x_label, y_label, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for curve in curves:
            line = "none" if curve.dots else curve.line
            axes.plot(
                curve.x, curve.y, marker=curve.marker, linestyle=line, color=curve.colour, label=curve.label, markersize=4, linewidth=1.2
            )
        axes.set_title(title, fontsize=10, color=INK, parse_math=False)
        axes.set_xlabel(x_label, fontsize=9)
        axes.set_ylabel(y_label, fontsize=9)
        axes.set_xscale("log" if log_x else "linear")
        axes.set_yscale("log" if log_y else "linear")
        if log_x:
            axes.xaxis.set_minor_formatter(NullFormatter())  # over less than two decades they would overlap
        axes.grid(alpha=0.25)
        if not shared:
            axes.legend(fontsize=7)
    if shared:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    save(path, figure)


def save(path: Path, figure: Figure) -> None:
    """Write a figure as PNG with 150 dots per inch, atomically."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format="png"))
