"""Charts of rows as plain values that the templates draw as inline SVG: dots, pairs, bars.

A row's label and figure are text of the page, legible and wrapped at any width; only the marks
between them are drawn, at places in percent. A chart may hold nothing to draw; then the page says
that nothing was measured.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import ClassVar, Literal

from salient.core.intervals import Interval

from .axis import Axis, Tick, fitting
from .text_format import UNMEASURED, Form, between, bounds, finite, show

MOST_ROWS = 60

MarkKind = Literal["bar", "dot", "ring", "whisker", "tick", "range"]


@dataclass(frozen=True)
class Mark:
    """A drawn thing from `start` to `end`, values of the axis (a dot, a ring, a tick: at `start`).

    colour: a series of the style sheet, such as "checkpoint", "reference", "bad"
    """

    kind: MarkKind
    start: float
    end: float
    colour: str
    title: str = ""


@dataclass(frozen=True)
class Level:
    """A value to compare figures with. bound: of the policy"""

    value: float
    label: str
    bound: bool = True


EQUAL = Level(1.0, "as the reference", bound=False)


@dataclass(frozen=True)
class ChartRow:
    """figure: its value as text; small: its interval; strong: a total over the other rows"""

    label: str
    figure: str
    marks: list[Mark]
    small: str = ""
    strong: bool = False

    @property
    def description(self) -> str:
        """The row for readers who do not see the marks."""
        return f"{self.label}: {self.figure}" + f", {self.small}" * bool(self.small)


@dataclass(frozen=True)
class RowChart:
    """At most MOST_ROWS rows on an axis that `scale` makes of the values of marks and levels.

    measure: what the axis shows   form: of its ticks   legend: (colour, label) of marks
    """

    title: str
    measure: str
    every_row: Sequence[ChartRow]
    form: Form
    _: KW_ONLY
    scale: Callable[[Iterable[float | None]], Axis] = fitting
    levels: Sequence[Level] = ()
    legend: Sequence[tuple[str, str]] = ()
    wide: bool = False
    kind: ClassVar[str] = "rows"

    @property
    def rows(self) -> Sequence[ChartRow]:
        return self.every_row[:MOST_ROWS]

    @cached_property
    def axis(self) -> Axis:
        marks = [end for row in self.rows for mark in row.marks for end in (mark.start, mark.end)]
        return self.scale([*marks, *(level.value for level in self.levels)])

    @property
    def ticks(self) -> list[Tick]:
        return self.axis.ticks(self.form)

    @property
    def unit(self) -> str:
        return self.measure + "; logarithmic" * self.axis.logarithmic

    @property
    def empty(self) -> bool:
        return not any(row.marks for row in self.rows)


def dot_row(
    label: str,
    value: float | None,
    interval: Interval | None,
    form: Form,
    *,
    kind: Literal["dot", "ring"] = "dot",
    colour: str = "checkpoint",
    strong: bool = False,
) -> ChartRow:
    """A dot with a whisker where there is an interval."""
    figure = show(value, form, UNMEASURED)
    if value is None or finite(value) is None:
        return ChartRow(label, figure, [], strong=strong)
    small, ends = between(interval, form), bounds(interval)
    marks = [Mark("whisker", *ends, colour, small)] if ends else []
    title = f"{label}: {figure}" + f", {small}" * bool(small)
    return ChartRow(label, figure, [*marks, Mark(kind, value, value, colour, title)], small, strong)


def bar_row(label: str, value: float | None, form: Form, colour: str = "checkpoint") -> ChartRow:
    """A bar from 0."""
    figure = show(value, form, UNMEASURED)
    if value is None or finite(value) is None:
        return ChartRow(label, figure, [])
    ends = min(value, 0.0), max(value, 0.0)
    return ChartRow(label, figure, [Mark("bar", *ends, colour, f"{label}: {figure}")])


def pair_row(
    label: str, figures: tuple[float, float, float], form: Form, *, strong: bool = False
) -> ChartRow:
    """Both models' figures with the way between them. figures: reference, checkpoint, chance"""
    before, after, chance = figures
    marks = [Mark("tick", chance, chance, "guess", f"a guess: {form(chance)}")] if chance else []
    marks += [
        Mark("range", min(before, after), max(before, after), "bad" if after < before else "good"),
        Mark("ring", before, before, "reference", f"reference: {form(before)}"),
        Mark("dot", after, after, "checkpoint", f"checkpoint: {form(after)}"),
    ]
    return ChartRow(label, f"{form(before)} → {form(after)}", marks, strong=strong)
