"""Charts of one row a name: dots with whiskers, pairs of dots, bars.

A row's label and figure are text of the page, so that they are legible and wrap at any width; only
the marks between them are drawn, at places in percent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from salient.validate.report.figures import UNMEASURED, Form, between, ends, number, show

from .axis import Axis, Level, Tick, finite, fitting, linear

Kind = Literal["bar", "dot", "ring", "whisker", "tick", "range"]
MOST_ROWS = 60
LEAST = 0.4  # percent: what is 0 is drawn as a hair, and tells itself from what is missing


@dataclass(frozen=True)
class Mark:
    """One drawn thing, from `start` to `end` percent (a dot, a ring, a tick: at `start`).

    colour: a series of the style sheet, such as "checkpoint", "reference", "bad"
    """

    kind: Kind
    start: float
    end: float
    colour: str
    title: str = ""


@dataclass(frozen=True)
class ChartRow:
    """label: what it is; figure: its value in words; small: more of it; words: all, for whoever
    does not see the marks; strong: a sum over the others"""

    label: str
    figure: str
    marks: list[Mark]
    words: str
    small: str = ""
    strong: bool = False


@dataclass(frozen=True)
class ReferenceLine:
    """A value that all rows are held against, at a place in percent. asked: by the policy"""

    at: float
    label: str
    side: str
    asked: bool


@dataclass(frozen=True)
class RowChart:
    """A chart of rows. legend: (colour, words) of each kind of mark"""

    title: str
    unit: str
    rows: list[ChartRow]
    ticks: list[Tick]
    legend: list[tuple[str, str]] = field(default_factory=list)
    lines: list[ReferenceLine] = field(default_factory=list)
    kind: str = "rows"
    wide: bool = False

    @property
    def empty(self) -> bool:
        """Nothing was measured."""
        return not any(row.marks for row in self.rows)


@dataclass(frozen=True)
class DotWhisker:
    """A figure to be drawn as a dot with a whisker. colour: "published" draws a ring"""

    label: str
    value: float | None
    interval: object = None
    colour: str = "checkpoint"
    strong: bool = False


def dots(
    title: str,
    unit: str,
    measured: Sequence[DotWhisker],
    forms: tuple[Form, Form],
    levels: Sequence[Level] = (),
    *,
    zero: bool = True,
    legend: Sequence[tuple[str, str]] = (),
) -> RowChart:
    """Dots with whiskers where there is an interval, and a line across the rows for each level.

    forms: of figures, of ticks   zero: the axis starts there
    """
    shown = measured[:MOST_ROWS]
    values = [v for m in shown for v in (m.value, *(ends(m.interval) or ()))]
    values += [level.value for level in levels]
    axis = fitting(values) if zero else linear(values, zero=False)
    rows = [_dot(m, axis, forms[0]) for m in shown]
    lines = [_line(level, axis.at(level.value)) for level in levels]
    return RowChart(title, axis.told(unit), rows, axis.ticks(forms[1]), list(legend), lines)


def _line(level: Level, at: float) -> ReferenceLine:
    return ReferenceLine(at, level.words, "end" if at > 60 else "start", level.asked)


def _dot(measured: DotWhisker, axis: Axis, form: Form) -> ChartRow:
    value, interval = number(measured.value), ends(measured.interval)
    small = between(measured.interval, form) if value is not None else ""
    words = f"{measured.label}: {show(value, form, UNMEASURED)}" + f", {small}" * bool(small)
    marks = []
    if value is not None:
        if interval:
            low, high = map(axis.at, interval)
            marks.append(Mark("whisker", low, high, measured.colour, small))
        kind = "ring" if measured.colour == "published" else "dot"
        marks.append(Mark(kind, axis.at(value), axis.at(value), measured.colour, words))
    figure = show(value, form, UNMEASURED)
    return ChartRow(measured.label, figure, marks, words, small, measured.strong)


def bars(
    title: str,
    unit: str,
    measured: Sequence[DotWhisker],
    forms: tuple[Form, Form],
    *,
    wide: bool = False,
) -> RowChart:
    """Bars from 0."""
    shown = measured[:MOST_ROWS]
    axis = linear([m.value for m in shown])
    rows = []
    for m in shown:
        value, figure = number(m.value), show(m.value, forms[0], UNMEASURED)
        words = f"{m.label}: {figure}"
        marks = [] if value is None else [bar(axis, 0.0, value, m.colour, words)]
        rows.append(ChartRow(m.label, figure, marks, words, strong=m.strong))
    return RowChart(title, unit, rows, axis.ticks(forms[1]), wide=wide)


def bar(axis: Axis, start: float, end: float, colour: str, words: str) -> Mark:
    """A bar between two values, whichever is larger."""
    first, last = sorted((axis.at(start), axis.at(end)))
    return Mark("bar", first, max(last, first + LEAST), colour, words)


@dataclass(frozen=True)
class PairedFigure:
    """The same figure of both models. guessed: what a guess reaches, if that is known"""

    label: str
    reference: float | None
    checkpoint: float | None
    guessed: float | None = None
    strong: bool = False


def pairs(
    title: str, unit: str, measured: Sequence[PairedFigure], forms: tuple[Form, Form]
) -> RowChart:
    """Both models' shares in one row each, with the way between them drawn."""
    shown = measured[:MOST_ROWS]
    axis = linear([0.0, 1.0, *finite([m.reference for m in shown])], most=1.0)
    rows = [_pair(m, axis, forms[0]) for m in shown]
    legend = [("reference", "reference"), ("checkpoint", "checkpoint")]
    if any(number(m.guessed) for m in shown):
        legend.append(("guess", "a guess"))
    return RowChart(title, unit, rows, axis.ticks(forms[1]), legend)


def _pair(both: PairedFigure, axis: Axis, form: Form) -> ChartRow:
    before, after = number(both.reference), number(both.checkpoint)
    figure = f"{show(before, form, UNMEASURED)} → {show(after, form, UNMEASURED)}"
    if before is None and after is None:
        figure = UNMEASURED
    marks = []
    if number(both.guessed):
        at = axis.at(both.guessed or 0.0)
        marks.append(Mark("tick", at, at, "guess", f"a guess: {form(both.guessed or 0.0)}"))
    if before is not None and after is not None:
        left, right = sorted((axis.at(before), axis.at(after)))
        marks.append(Mark("range", left, right, "bad" if after < before else "good"))
    if before is not None:
        at = axis.at(before)
        marks.append(Mark("ring", at, at, "reference", f"reference: {form(before)}"))
    if after is not None:
        at = axis.at(after)
        marks.append(Mark("dot", at, at, "checkpoint", f"checkpoint: {form(after)}"))
    return ChartRow(both.label, figure, marks, f"{both.label}: {figure}", strong=both.strong)
