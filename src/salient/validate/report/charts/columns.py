"""A plot of one column a name, numbered from 0, such as the blocks of a model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from salient.validate.report.figures import Form, number, tick

from .axis import Tick, finite, linear
from .lines import PIXELS

LEAST = 0.6  # percent: what is 0 is drawn as a hair, and tells itself from what is missing
CALLOUTS = 3  # columns that are named in the plot


@dataclass(frozen=True)
class Column:
    """A column in percent of the plot, from the left and from the top."""

    x: float
    width: float
    y: float
    height: float
    colour: str
    title: str


@dataclass(frozen=True)
class Callout:
    """A column's name, written above it."""

    x: float
    y: float
    label: str
    side: str


@dataclass(frozen=True)
class ColumnChart:
    """A plot of one column a name, numbered from 0."""

    title: str
    unit: str
    below: str
    columns: list[Column]
    callouts: list[Callout]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    words: str
    kind: str = "columns"
    wide: bool = False
    pixels: int = PIXELS

    @property
    def empty(self) -> bool:
        """Nothing was measured."""
        return not self.columns


def columns(
    title: str,
    unit: str,
    below: str,
    named: Sequence[tuple[str, float | None]],
    form: Form,
    *,
    standing_out: float = 0.0,
    wide: bool = False,
) -> ColumnChart:
    """A column for each name. standing_out: from this value on a column is marked and named; the
    largest is named in any case"""
    values = [number(value) for _, value in named]
    pitch, up = 100 / max(len(named), 1), linear(values)
    drawn, peaks = [], []
    most = max(finite(values), default=0.0)
    for index, value in enumerate(values):
        if value is None:
            continue
        low, high = sorted((up.at(0.0), up.at(value)))
        loud = bool(standing_out) and value >= standing_out
        box = (pitch * (index + 0.15), 100 - high, pitch * 0.7, max(high - low, LEAST))
        x, y, width, height = (round(v, 3) for v in box)
        label = f"{named[index][0]}: {form(value)}"
        drawn.append(Column(x, width, y, height, "bad" if loud else "checkpoint", label))
        if loud or value == most > 0:
            peaks.append((value, index, Callout(x + width / 2, y, label, "middle")))
    largest = [callout for *_, callout in sorted(peaks, key=lambda p: p[:2], reverse=True)]
    return ColumnChart(
        title,
        unit,
        below,
        drawn,
        _apart(largest[:CALLOUTS]),
        _numbers(len(named), pitch),
        [Tick(round(100 - up.at(step), 2), tick(step)) for step in up.steps],
        "; ".join(callout.label for callout in largest[:CALLOUTS]) or "none is above 0",
        wide=wide,
    )


def _apart(callouts: Sequence[Callout]) -> list[Callout]:
    """The largest first; one too near to a larger one is left to its table."""
    kept: list[Callout] = []
    for one in callouts:
        if all(abs(one.x - other.x) > 30 for other in kept):
            side = "start" if one.x < 20 else "end" if one.x > 80 else "middle"
            kept.append(replace(one, x=round(one.x, 2), side=side))
    return kept


def _numbers(count: int, pitch: float) -> list[Tick]:
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if count / step <= 8)
    return [Tick(round((i + 0.5) * pitch, 2), str(i)) for i in range(0, count, every)]
