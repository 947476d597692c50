"""Plots over an axis as plain values: lines with bands and labels, or numbered columns.

Places are in percent of the plot, so that it takes any width; its height is PIXELS, so that labels
can be placed apart.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeVar

from salient.core.intervals import Interval

from .axis import Axis, Tick, at_values, drawable, fitting, linear
from .charts import Level
from .text_format import UNMEASURED, Form, bounds, finite, tick

PIXELS = 200  # of a plot's height
LABEL_PIXELS = 15  # between two labels at the ends of lines
MOST_DOTS = 24  # of a line; with more, only the line is drawn

Point = TypeVar("Point")


@dataclass(frozen=True)
class Curve:
    """A line: a value, or None, for each x."""

    name: str
    values: Sequence[float | None]
    colour: str
    intervals: Sequence[Interval | None] = ()


@dataclass(frozen=True)
class PlotLine:
    """A drawn line.

    runs, bands: unbroken pieces of line and of intervals, as points of a 100 by 100 plane
    dots: x, y and title   label: at the end of the line, `label_y` pixels from the top
    """

    colour: str
    runs: list[str]
    bands: list[str]
    dots: list[tuple[float, float, str]]
    label: str
    label_y: float


@dataclass(frozen=True)
class Column:
    """A column: its left edge, width, top and height."""

    x: float
    width: float
    y: float
    height: float
    colour: str
    title: str


@dataclass(frozen=True)
class Plot:
    """Lines or columns over an axis. The column `callout` has a label, each of `levels` a y."""

    title: str
    unit: str
    below: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    description: str
    lines: Sequence[PlotLine] = ()
    columns: Sequence[Column] = ()
    callout: Column | None = None
    levels: Sequence[tuple[float, str]] = ()
    wide: bool = False
    kind: ClassVar[str] = "plot"
    pixels: ClassVar[int] = PIXELS

    @property
    def empty(self) -> bool:
        return not self.columns and not any(line.runs or line.dots for line in self.lines)


def line_plot(
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
) -> Plot:
    """Curves over `xs`. forms: of figures, of the ticks of y"""
    across = x_axis or at_values(xs)
    ends = [end for curve in curves for each in curve.intervals for end in bounds(each) or ()]
    values = [value for curve in curves for value in curve.values]
    up = fitting([*values, *ends, *(level.value for level in levels)])
    label_places = _apart([drawable(curve.values)[-1:] for curve in curves], up)
    return Plot(
        title,
        unit + "; logarithmic" * up.logarithmic,
        below,
        _with_room(across.ticks(tick)),
        [Tick(up.down(step), forms[1](step)) for step in up.steps],
        "; ".join(_description(curve, xs, forms[0]) for curve in curves),
        lines=[
            _line(curve, xs, (across, up), forms[0], place)
            for curve, place in zip(curves, label_places, strict=True)
        ],
        levels=[(up.down(level.value), level.label) for level in levels],
        wide=wide,
    )


def _line(
    curve: Curve, xs: Sequence[float], axes: tuple[Axis, Axis], form: Form, label_y: float
) -> PlotLine:
    across, up = axes
    dots = [
        None if v is None else (across.at(x), up.down(v), f"{curve.name} {tick(x)}: {form(v)}")
        for x, v in zip(xs, map(finite, curve.values), strict=True)
    ]
    runs = _runs(dots)
    ends = [
        None if pair is None else (across.at(x), up.down(pair[0]), up.down(pair[1]))
        for x, pair in zip(xs, map(bounds, curve.intervals), strict=False)
    ]
    bands = [
        [(x, high) for x, _, high in run] + [(x, low) for x, low, _ in reversed(run)]
        for run in _runs(ends)
    ]
    few = sum(map(len, runs)) <= MOST_DOTS
    last = next((v for v in map(finite, reversed(curve.values)) if v is not None), None)
    return PlotLine(
        curve.colour,
        [_points((x, y) for x, y, _ in run) for run in runs if len(run) > 1],
        [_points(band) for band in bands if len(band) > 2],
        [(x, y, title.strip()) for run in runs if few or len(run) == 1 for x, y, title in run],
        "" if last is None else f"{curve.name} {form(last)}".strip(),
        label_y,
    )


def _runs(points: Iterable[Point | None]) -> list[list[Point]]:
    """The unbroken pieces of `points`."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if run]


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _apart(last_values: Sequence[list[float]], up: Axis) -> list[float]:
    """Places of labels, in pixels from the top: LABEL_PIXELS from each other, near their values."""
    places = [PIXELS * up.down(value) / 100 for last in last_values for value in last or [up.high]]
    order = sorted(range(len(places)), key=places.__getitem__)
    for _ in range(50):
        for upper, lower in pairwise(order):
            overlap = LABEL_PIXELS - (places[lower] - places[upper])
            if overlap > 0:
                places[upper] -= overlap / 2
                places[lower] += overlap / 2
    return [round(place, 1) for place in places]


def _with_room(ticks: list[Tick]) -> list[Tick]:
    """Ticks whose labels do not touch on a phone."""
    apart: list[Tick] = []
    for each in ticks:
        if not apart or each.at - apart[-1].at >= 11:
            apart.append(each)
    return apart


def _description(curve: Curve, xs: Sequence[float], form: Form) -> str:
    """The first, last and largest figure of a line, for readers who do not see it."""
    values = zip(map(finite, curve.values), xs, strict=True)
    known = [(value, x) for value, x in values if value is not None]
    name = f"{curve.name}: " if curve.name else ""
    if not known:
        return f"{name}{UNMEASURED}"
    first, last, largest = (f"{form(v)} at {tick(x)}" for v, x in (known[0], known[-1], max(known)))
    return f"{name}{first}" + f", {last}, at most {largest}" * (len(known) > 1)


def column_plot(
    title: str,
    unit: str,
    below: str,
    values: Sequence[tuple[str, float]],
    form: Form,
    *,
    outlier: float,
    wide: bool = False,
) -> Plot:
    """A numbered column for each name, the largest one labelled; marked from `outlier` on."""
    pitch, up = 100 / max(len(values), 1), linear(value for _, value in values)
    columns: list[tuple[float, Column]] = []
    for index, (name, value) in enumerate(values):
        if finite(value) is None:
            continue
        left, width, top = round(pitch * (index + 0.15), 3), round(pitch * 0.7, 3), max(value, 0.0)
        height = max(abs(up.at(value) - up.at(0.0)), 0.6)  # 0 is a hair, unlike what is missing
        colour, label = "bad" if value >= outlier else "checkpoint", f"{name}: {form(value)}"
        columns.append((value, Column(left, width, up.down(top), round(height, 3), colour, label)))
    most, largest = max(columns, key=lambda pair: pair[0], default=(0.0, None))
    callout = largest if most > 0 else None
    return Plot(
        title,
        unit,
        below,
        [
            Tick(round((number + 0.5) * pitch, 2), tick(number))
            for number in linear([len(values) - 1]).steps
            if number < len(values) and number == int(number)
        ],
        [Tick(up.down(step), tick(step)) for step in up.steps],
        f"The largest is {callout.title}" if callout else "none is above 0",
        columns=[column for _, column in columns],
        callout=callout,
        wide=wide,
    )
