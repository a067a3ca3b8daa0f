"""Curves as inline SVG: complete without a script; page.js reads out the values under the pointer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modeseek.pages.document import escaped, json_script

WIDTH, HEIGHT = 420, 210
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 30
POINTS = 600  # of one curve; more are thinned
COLOURS = 6  # --s0 to --s5 of the stylesheet


@dataclass(frozen=True)
class Series:
    """A named curve: `y` over `x`, equally long, finite."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def thinned(x: Sequence[float], y: Sequence[float], points: int = POINTS) -> tuple[list[float], list[float]]:
    """At most `points` of a curve: the lowest and the highest value of each of equal groups, so that peaks stay.

    Example:
        >>> thinned([0, 1, 2, 3, 4, 5], [0, 9, 1, 2, -7, 3], points=4)
        ([0, 1, 4, 5], [0, 9, -7, 3])
    """
    if len(x) <= points:
        return list(x), list(y)
    groups, kept = max(1, points // 2), []
    for k in range(groups):
        group = range(k * len(x) // groups, (k + 1) * len(x) // groups)
        kept += sorted({min(group, key=lambda i: y[i]), max(group, key=lambda i: y[i])})
    return [x[i] for i in kept], [y[i] for i in kept]


def ticks(low: float, high: float, *, log: bool = False) -> list[float]:
    """Round values between two limits: multiples of 1, 2 or 5 times a power of ten, or powers of ten on a logarithmic axis.

    Example:
        >>> ticks(0.0, 399.0), ticks(1.0, 5000.0, log=True)
        ([0.0, 100.0, 200.0, 300.0], [1.0, 10.0, 100.0, 1000.0])
    """
    if log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        every = max(1, (last - first) // 4 + 1)
        return [10.0**k for k in range(first, last + 1, every)] if last > first else [low, high]
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12) / 4))
    step *= next((factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 5), 10)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def chart(
    identity: str, title: str, series: Sequence[Series], *, x_label: str = "step", by_share: bool = False, may_log: bool = True
) -> str:
    """One plot as HTML: a heading, an SVG and a line that reads out values.

    Args:
        identity: unique on the page.
        title: what is plotted.
        series: the curves; empty ones are dropped.
        x_label: of the horizontal axis.
        by_share: x is the share of a run in percent, not a step.
        may_log: whether the vertical axis may be logarithmic.

    A range of more than a factor of 50 between positive values is drawn on a logarithmic axis, which the heading says.
    """
    drawn = [(k, Series(s.name, *thinned(s.x, s.y))) for k, s in enumerate(series) if len(s.x)]
    if not drawn:
        return ""
    every_x, every_y = [v for _, s in drawn for v in s.x], [v for _, s in drawn for v in s.y]
    x0, x1 = min(every_x), max(every_x)
    low, high = min(every_y), max(every_y)
    log = may_log and low > 0 and high / low > 50
    if not log:
        margin = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
        low, high = (0.0 if 0 <= low < 0.3 * high else low - margin), high + margin
    inner, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    scale = (lambda v: math.log10(v)) if log else (lambda v: v)
    bottom, span = scale(low), max(scale(high) - scale(low), 1e-12)

    def across(x: float) -> float:
        return LEFT + (x - x0) / max(x1 - x0, 1e-12) * inner

    def up(y: float) -> float:
        return TOP + tall * (1 - (scale(y) - bottom) / span)

    parts = []
    for value in ticks(low, high, log=log):
        parts.append(f'<path class="frame" d="M{LEFT} {up(value):.1f}h{inner}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{up(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    for value in ticks(x0, x1) if x1 > x0 else [x0]:
        parts.append(f'<text x="{across(value):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{value:g}</text>')
    for k, s in drawn:
        points = "L".join(f"{across(x):.1f} {up(y):.2f}" for x, y in zip(s.x, s.y, strict=True))
        single = f"M{points}h.01" if len(s.x) == 1 else f"M{points}"
        parts.append(f'<path class="curve" style="stroke:var(--s{k % COLOURS})" stroke-linecap="round" d="{single}"/>')
    hidden = f'x1="0" x2="0" y1="{TOP}" y2="{TOP + tall}" style="display:none"'
    facts = {"x0": x0, "x1": x1, "left": LEFT, "width": inner, "full": WIDTH, "label": x_label}
    facts["series"] = [{"name": s.name, "x": _short(s.x), "y": _short(s.y)} for _, s in drawn]
    label = escaped(f"{title} over {x_label}" + (", logarithmic" if log else ""))
    return (
        f'<div class="chart" data-chart="{escaped(identity)}" data-by="{"share" if by_share else "step"}">'
        f"<h3>{escaped(title)}{' <span class=soft>(log scale)</span>' if log else ''}</h3>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}'
        f'<line class="now" {hidden}/><line class="rule" {hidden}/></svg>'
        f'<div class="reading">{escaped(x_label)} {x0:g} to {x1:g}</div>{json_script(identity, facts)}</div>'
    )


def legend(names: Sequence[str]) -> str:
    """The colours of a chart's series."""
    items = "".join(f'<li><i style="background:var(--s{k % COLOURS})"></i>{escaped(name)}</li>' for k, name in enumerate(names))
    return f'<ul class="legend">{items}</ul>'


def _short(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
