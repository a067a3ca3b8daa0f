"""Labelled dots whose area is a cost, for figures of quality against quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from modeseek.plots.panels import INK, save

TICKS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)  # of the vertical axis
ENDS = (0.03, 0.997)  # values beyond these are drawn there
RIGHT = 1.13  # end of the horizontal axis; labels of the rightmost dots need the part beyond 1
COLOURS = ("#d1495b", "#2e6f95", "#8d6a9f", "#5b8c5a", "#8a8f98")


@dataclass(frozen=True)
class Dot:
    """A method: label, coordinates, calls of the denoiser (the area), and the group that decides its colour."""

    label: str
    x: float
    y: float
    calls: float
    group: str


def save_dots(path: Path, panels: Sequence[tuple[str, Sequence[Dot]]], *, x_label: str, y_label: str, groups: Sequence[str]) -> None:
    """Write a PNG of side-by-side plots, up and right being better; one colour per group, one area scale.

    x lies in [0, 1]. y does too, and is drawn as log(y/(1 - y)), so that 0.98 and 0.99 are as far apart as 0.7 and 0.83.
    """
    figure = Figure(figsize=(6.2 * len(panels) + 1.5, 6.6), layout="constrained")
    lowest = min((height(dot.y) for _, dots in panels for dot in dots), default=height(TICKS[0]))
    colours = dict(zip(groups, COLOURS, strict=False))
    for axes, (title, dots) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for dot in sorted(dots, key=lambda dot: -dot.calls):
            axes.scatter(dot.x, height(dot.y), s=area(dot.calls), c=colours[dot.group], alpha=0.75, linewidths=0.5, edgecolors="white")
        axes.set(
            xlim=(-0.03, RIGHT), xticks=[tick / 5 for tick in range(6)], ylim=(min(lowest, height(TICKS[0])) - 0.4, height(ENDS[1]) + 0.7)
        )
        axes.set_yticks([height(tick) for tick in TICKS], [f"{tick:g}" for tick in TICKS])
        _label(axes, dots, colours)
        axes.annotate(
            "better", (0.985, 0.985), (0.9, 0.9), xycoords="axes fraction", fontsize=9, color=INK, arrowprops={"arrowstyle": "->"}
        )
        axes.set_title(title, fontsize=11, color=INK, parse_math=False)
        axes.set_xlabel(x_label, fontsize=10)
        axes.set_ylabel(y_label, fontsize=10)
        axes.grid(alpha=0.2)
    first = figure.axes[0]
    for group, colour in colours.items():
        first.scatter([], [], s=60, c=colour, label=group)
    for calls in (100, 1000, 5000):
        first.scatter([], [], s=area(calls), c="#d8dade", label=f"{calls} calls")
    figure.legend(*first.get_legend_handles_labels(), fontsize=8, loc="outside right upper", labelspacing=0.9, frameon=False)
    save(path, figure)


def height(y: float) -> float:
    """Where y is drawn on the vertical axis.

    Example:
        >>> height(0.5), round(height(0.98), 2)
        (0.0, 3.89)
    """
    inside = min(max(y, ENDS[0]), ENDS[1])
    return math.log(inside / (1 - inside))


def area(calls: float) -> float:
    """Area in square points, growing with the logarithm of the cost."""
    return 12.0 * max(1.0, math.log2(max(calls, 1.0) / 16)) ** 1.5


def _label(axes: Axes, dots: Sequence[Dot], colours: dict[str, str]) -> None:
    """Write each label beside its dot, moved up or down until none overlaps another."""
    line = 0.026 * (axes.get_ylim()[1] - axes.get_ylim()[0])
    places = np.array([[dot.x + 0.018, height(dot.y)] for dot in dots])
    widths = np.array([0.0125 * len(dot.label) for dot in dots])
    places[:, 0] = np.where(places[:, 0] + widths > RIGHT, np.array([dot.x for dot in dots]) - widths - 0.018, places[:, 0])
    for _ in range(400):
        moved = False
        for i in range(len(dots)):
            for j in range(i):
                across = min(places[i, 0] + widths[i], places[j, 0] + widths[j]) - max(places[i, 0], places[j, 0])
                apart = places[i, 1] - places[j, 1]
                if across > 0 and abs(apart) < line:
                    step = 0.5 * (1.04 * line - abs(apart)) * (1 if apart >= 0 else -1)
                    places[i, 1] += step
                    places[j, 1] -= step
                    moved = True
        if not moved:
            break
    places[:, 1] = places[:, 1].clip(axes.get_ylim()[0] + line / 2, axes.get_ylim()[1] - line / 2)
    for dot, (x, y) in zip(dots, places, strict=True):
        if abs(y - height(dot.y)) > 1.2 * line:
            axes.plot([dot.x, x], [height(dot.y), y], color=colours[dot.group], linewidth=0.5, alpha=0.6)
        axes.text(x, y, dot.label, fontsize=8, color=INK, va="center", parse_math=False)
