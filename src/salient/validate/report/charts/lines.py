"""Line plots, with a band around a line or a label at its end.

Places are in percent of the plot, so that it takes any width; its height is PIXELS, so that labels
can be kept apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from salient.validate.report.figures import Form, ends, number, tick

from .axis import Axis, Level, Tick, finite, fitting, placed

PIXELS = 200  # of a plot's height
APART = 15  # pixels between two labels
MOST_DOTS = 24  # of a line; with more, only the line is drawn


@dataclass(frozen=True)
class Dot:
    """A point of a line, in percent from the left and from the top."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Series:
    """A line. runs: its unbroken pieces, as points of a 100 by 100 plane; label_y: in pixels"""

    name: str
    colour: str
    runs: list[str]
    dots: list[Dot]
    label: str
    label_y: float


@dataclass(frozen=True)
class LineChart:
    """A line plot. bands: polygons of a 100 by 100 plane; levels: (y, label) of bounds"""

    title: str
    unit: str
    below: str
    series: list[Series]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    words: str
    bands: list[str] = field(default_factory=list)
    levels: list[tuple[float, str]] = field(default_factory=list)
    kind: str = "lines"
    wide: bool = False
    pixels: int = PIXELS

    @property
    def empty(self) -> bool:
        """Nothing was measured."""
        return not any(series.dots or series.runs for series in self.series)


@dataclass(frozen=True)
class Curve:
    """A line to be drawn: a value or None for each x, and what stands at its end."""

    name: str
    values: Sequence[float | None]
    colour: str
    intervals: Sequence[object] = ()


def lines(
    title: str,
    unit: str,
    below: str,
    xs: Sequence[float],
    curves: Sequence[Curve],
    forms: tuple[Form, Form],
    *,
    levels: Sequence[Level] = (),
    x_axis: Axis | None = None,
    wide: bool = False,
) -> LineChart:
    """Curves over `xs`, from 0 on where that hides nothing. forms: of figures, of y's ticks"""
    across = x_axis or placed(xs, tick)
    sure = [v for c in curves for interval in c.intervals for v in ends(interval) or ()]
    limits = [level.value for level in levels]
    up = fitting([*(v for c in curves for v in c.values), *sure, *limits])
    wanted = [_label_y(curve, up) for curve in curves]
    series = [
        _series(curve, xs, (across, up), forms[0], y)
        for curve, y in zip(curves, _apart(wanted), strict=True)
    ]
    return LineChart(
        title,
        up.told(unit),
        below,
        series,
        _sparse(across.ticks(tick)),
        [Tick(_down(up, step), forms[1](step)) for step in up.steps],
        "; ".join(_story(curve, xs, forms[0]) for curve in curves),
        [band for curve in curves for band in _bands(curve, xs, (across, up))],
        [(_down(up, level.value), level.words) for level in levels],
        wide=wide,
    )


def _down(axis: Axis, value: float) -> float:
    return round(100 - axis.at(value), 2)


def _label_y(curve: Curve, up: Axis) -> float | None:
    found = finite(curve.values)
    return PIXELS * _down(up, found[-1]) / 100 if found else None


def _apart(wanted: Sequence[float | None]) -> list[float]:
    """Heights at least APART pixels from each other, as near as can be to those wanted."""
    order = sorted((y, index) for index, y in enumerate(wanted) if y is not None)
    heights = [y for y, _ in order]
    for _ in range(50):
        for i in range(1, len(heights)):
            overlap = APART - (heights[i] - heights[i - 1])
            if overlap > 0:
                heights[i - 1] -= overlap / 2
                heights[i] += overlap / 2
    found = [0.0] * len(wanted)
    for height, (_, index) in zip(heights, order, strict=True):
        found[index] = round(height, 1)
    return found


def _series(
    curve: Curve, xs: Sequence[float], axes: tuple[Axis, Axis], form: Form, label_y: float
) -> Series:
    across, up = axes
    runs: list[list[str]] = [[]]
    found: list[Dot] = []
    for x, value in zip(xs, map(number, curve.values), strict=True):
        if value is None:
            runs.append([])
            continue
        dot = Dot(across.at(x), _down(up, value), f"{curve.name} {tick(x)}: {form(value)}".strip())
        found.append(dot)
        runs[-1].append(f"{dot.x},{dot.y}")
    last = next((v for v in map(number, reversed(curve.values)) if v is not None), None)
    label = "" if last is None else f"{curve.name} {form(last)}".strip()
    joined = [" ".join(run) for run in runs if len(run) > 1]
    alone = {run[0] for run in runs if len(run) == 1}
    dots = [d for d in found if len(found) <= MOST_DOTS or f"{d.x},{d.y}" in alone]
    return Series(curve.name, curve.colour, joined, dots, label, label_y)


def _bands(curve: Curve, xs: Sequence[float], axes: tuple[Axis, Axis]) -> list[str]:
    """Between the ends of the intervals; broken where there is none."""
    across, up = axes
    runs: list[list[tuple[float, float, float]]] = [[]]
    for x, interval in zip(xs, map(ends, curve.intervals), strict=False):
        if interval is None:
            runs.append([])
        else:
            runs[-1].append((across.at(x), _down(up, interval[1]), _down(up, interval[0])))
    return [
        " ".join([f"{x},{high}" for x, high, _ in run] + [f"{x},{low}" for x, _, low in run[::-1]])
        for run in runs
        if len(run) > 1
    ]


def _sparse(ticks: list[Tick]) -> list[Tick]:
    """Ticks whose labels have room on a phone: every so many, and the last."""
    kept: list[Tick] = []
    for one in ticks:
        if not kept or one.at - kept[-1].at >= 11:
            kept.append(one)
    return kept


def _story(curve: Curve, xs: Sequence[float], form: Form) -> str:
    """A line in words: its first, last and largest figure."""
    found = [(v, x) for x, v in zip(xs, map(number, curve.values), strict=True) if v is not None]
    if not found:
        return f"{curve.name or 'nothing'}: not measured"
    (first, start), (last, end), (most, there) = found[0], found[-1], max(found)
    words = f"{form(first)} at {tick(start)}"
    if len(found) > 1:
        words += f", {form(last)} at {tick(end)}, at most {form(most)} at {tick(there)}"
    return f"{curve.name}: {words}" if curve.name else words
