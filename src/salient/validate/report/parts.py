"""What a report is made of: sections of charts, tables, flips and notes, all plain values.

Made once from the data (sections/), and drawn twice: as a page (page.py) and as Markdown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .charts import Chart
from .figures import MISSING, UNMEASURED, Form, between, number, show
from .reading import Data, ruled, sign

MOST_ROWS = 120  # of a table; report.json has them all


@dataclass(frozen=True)
class HtmlCell:
    """A cell of a table. small: what stands below it, such as an interval; sign: "good", "bad",
    "unsure" or "" (its colour, which never says more than its text)."""

    text: str
    small: str = ""
    sign: str = ""


def cell(value: Any, form: Form, interval: Any = None, sign: str = "") -> HtmlCell:
    """A figure, its interval below it."""
    known = number(value) is not None
    return HtmlCell(
        show(value, form), between(interval, form) if known else "", sign if known else ""
    )


@dataclass(frozen=True)
class HtmlTable:
    """A table whose first column names the row; those in `words` are text, the others numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[HtmlCell, ...]]
    words: tuple[str, ...] = ()
    note: str = ""

    @property
    def notes(self) -> list[str]:
        """What a reader has to know of the cells."""
        some = any(MISSING in cell.text for row in self.rows for cell in row)
        return [each for each in (self.note, f"{MISSING}: not measured." * some) if each]


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[HtmlCell | str]],
    words: tuple[str, ...] = (),
    note: str = "",
) -> HtmlTable:
    """A table of at most MOST_ROWS rows; a string is a cell."""
    cells = [
        tuple(cell if isinstance(cell, HtmlCell) else HtmlCell(cell) for cell in row)
        for row in rows[:MOST_ROWS]
    ]
    left = len(rows) - len(cells)
    notes = (note, f"{left} more rows are in report.json." * (left > 0))
    return HtmlTable(caption, tuple(columns), cells, words, " ".join(n for n in notes if n))


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page. sign: as of a Cell; remark: what to hold it against"""

    label: str
    figure: str
    remark: str = ""
    sign: str = ""


def tile(data: Data, what: tuple[str, str], label: str, own: tuple[Any, Form], remark: str) -> Tile:
    """A tile of a figure that the policy may rule on: then what was judged, else the section's own.

    what: stage and measurement   own: the section's figure, and how it is written
    """
    value, form = own
    judged = number(ruled(data, *what).get("value"))
    figure = show(value if judged is None else judged, form, UNMEASURED)
    return Tile(label, figure, remark, sign(data, *what))


@dataclass(frozen=True)
class AnswerText:
    """A text that a model wrote, to be shown in two pieces: what both models wrote, and the rest.

    whole: all of it, or as much as a page holds, where `same` and `other` are cut; else ''
    left: characters that even `whole` leaves out
    """

    same: str
    other: str
    whole: str = ""
    left: int = 0


@dataclass(frozen=True)
class FlipRow:
    """An example that only one model gets right. right: the model that does"""

    name: str
    kind: str
    lost: bool
    prompt: AnswerText
    expected: str
    reference: AnswerText
    quantized: AnswerText


@dataclass(frozen=True)
class FlipList:
    """first: shown at once; rest: folded; note: what is not shown at all"""

    first: list[FlipRow]
    rest: list[FlipRow]
    note: str = ""


@dataclass
class Section:
    """One measured thing.

    name: its key in the data, and its place on the page   lead: what was found, in a sentence
    error: why it could not be measured; then it has nothing else
    charts, tables: in the order shown; brief: the tables that Markdown shows
    facts, terms: names and values, words and what they mean
    """

    name: str
    title: str
    lead: str = ""
    error: str = ""
    charts: list[Chart] = field(default_factory=list)
    tables: list[HtmlTable] = field(default_factory=list)
    brief: list[HtmlTable] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    flips: FlipList | None = None
    facts: list[tuple[str, str]] = field(default_factory=list)
    terms: list[tuple[str, str]] = field(default_factory=list)
