"""What a report is made of: sections of charts, tables, flips and notes, all plain values.

The sections are made once from the results, and drawn twice: as a page and as Markdown.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from salient.core.intervals import Interval
from salient.validate.tasks.comparison import AnswerFlip

from .charts import RowChart
from .plots import Plot
from .text_format import MISSING, Form, between, finite, show

MOST_ROWS = 120  # of a table; report.json has them all
Row = TypeVar("Row")


@dataclass(frozen=True)
class HtmlCell:
    """small: text below, such as an interval; sign: "good", "bad", "unsure" or "", its colour"""

    text: str
    small: str = ""
    sign: str = ""


def cell(value: float | None, form: Form, interval: Interval | None = None) -> HtmlCell:
    """A figure with its interval below it."""
    return HtmlCell(show(value, form), between(interval, form) if finite(value) is not None else "")


@dataclass(frozen=True)
class HtmlTable:
    """A table whose first column names the row; `text_columns` are text, the others numbers.

    brief: columns that Markdown shows after the first; (): Markdown leaves the table out
    """

    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[HtmlCell, ...]]
    text_columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    brief: tuple[str, ...] = ()


def table(
    caption: str,
    first: str,
    rows: Iterable[tuple[str, Row]],
    columns: Mapping[str, Callable[[Row], HtmlCell | str]],
    *,
    text_columns: tuple[str, ...] = (),
    note: str = "",
    brief: tuple[str, ...] = (),
) -> HtmlTable:
    """A table of at most MOST_ROWS rows. first: the column of names; columns: name -> cell of it"""
    pairs = list(rows)
    cells = [
        tuple(_as_cell(each) for each in (name, *(column(row) for column in columns.values())))
        for name, row in pairs[:MOST_ROWS]
    ]
    missing = any(MISSING in each.text for row in cells for each in row)
    notes = (
        note,
        f"{len(pairs) - MOST_ROWS} more rows are in report.json." * (len(pairs) > MOST_ROWS),
        f"{MISSING}: not measured." * missing,
    )
    names = (first, *columns)
    return HtmlTable(caption, names, cells, text_columns, tuple(filter(None, notes)), brief)


def _as_cell(content: HtmlCell | str) -> HtmlCell:
    return content if isinstance(content, HtmlCell) else HtmlCell(content)


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page. sign: as of a cell; remark: what to compare it with"""

    label: str
    figure: str
    remark: str = ""
    sign: str = ""


@dataclass
class Section:
    """One stage's part of the report.

    name: of the stage, and the place on the page   lead: the result in a sentence
    error: why it could not be measured; then the section has nothing else
    flips: lost ones first
    """

    name: str = ""
    title: str = ""
    lead: str = ""
    error: str = ""
    charts: list[RowChart | Plot] = field(default_factory=list)
    tables: list[HtmlTable] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    flips: list[AnswerFlip] | None = None
