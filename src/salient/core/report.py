"""The result of a command: tables for people, one JSON document for programs.

Imports no torch.
"""

import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from .printable import printable, printable_line
from .records import is_object, is_sequence
from .summary_lines import SummaryLine, show_lines

TEXT_CELLS = 20  # of a column of texts, before optional columns are left out for it


@dataclass(frozen=True)
class Table:
    """A titled table; the first column and `text_columns` are text, the others numbers.

    optional: columns that a narrow console leaves out, the first one first, before a cell wraps
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    text_columns: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The outcome of a command.

    data: everything, as plain numbers, strings, lists and dicts
    summary, tables, notes, lines: what a person reads, in this order
    passed: False where the command's verdict is no (exit code 1)
    """

    data: dict[str, object]
    tables: list[Table] = field(default_factory=list[Table])
    lines: list[str] = field(default_factory=list[str])
    passed: bool = True
    summary: list[SummaryLine] = field(default_factory=list[SummaryLine])
    notes: list[SummaryLine] = field(default_factory=list[SummaryLine])

    def to_json(self) -> str:
        """The data as one JSON document."""
        return printable(json.dumps(_finite(self.data), indent=2, ensure_ascii=False))

    def show(self, console: Console, *, wrap: bool = True) -> None:
        """Print everything, without controls.

        No word in a cell is broken where the console has room for it.

        wrap: whether titles, summary and notes break between words at the console's width
        """
        show_lines(self.summary, console, wrap=wrap)
        if self.summary and self.tables:
            console.print()
        for table in map(_printable, self.tables):
            console.print(Text(table.title, style="bold"), soft_wrap=not wrap)
            fitted = _without_optional(table, console.width)
            widths = _column_widths(fitted, console.width)
            if widths:
                console.print(_rich_table(fitted, widths))
            else:
                console.print(*_vertical(fitted), sep="\n")
        if self.summary and self.notes:
            console.print()
        show_lines(self.notes, console, wrap=wrap)
        for line in self.lines:
            console.print(Text(printable_line(line)), soft_wrap=True)


def _printable(table: Table) -> Table:
    """`table` without controls in its texts, which would also take other widths than they show."""
    columns, text_columns, optional = (
        tuple(map(printable, names))
        for names in (table.columns, table.text_columns, table.optional)
    )
    rows = [tuple(map(printable, row)) for row in table.rows]
    return Table(printable(table.title), columns, rows, text_columns, optional)


def _without_optional(table: Table, room: int) -> Table:
    """`table` without the optional columns for which `room` is too little."""
    left_out, fitted = set[str](), table
    for name in table.optional:
        if sum(_fair_widths(fitted)) <= room - _borders(fitted):
            break
        left_out.add(name)
        shown = [index for index, column in enumerate(table.columns) if column not in left_out]
        columns = tuple(table.columns[index] for index in shown)
        rows = [tuple(row[index] for index in shown) for row in table.rows]
        fitted = replace(table, columns=columns, rows=rows)
    return fitted


def _natural_widths(table: Table) -> list[int]:
    """Cells of each column where nothing wraps."""
    columns = zip(table.columns, *table.rows, strict=True)
    return [max(cell_len(line) for cell in cells for line in cell.split("\n")) for cells in columns]


def _least_widths(table: Table) -> list[int]:
    """Cells of the longest word of each column."""
    columns = zip(table.columns, *table.rows, strict=True)
    return [
        max((cell_len(w) for cell in cells for w in cell.split()), default=0) for cells in columns
    ]


def _fair_widths(table: Table) -> list[int]:
    """Cells that each column should have: numbers whole, texts with room for two words."""
    texts = {table.columns[0], *table.text_columns}
    widths = zip(table.columns, _natural_widths(table), _least_widths(table), strict=True)
    return [
        max(least, min(natural, TEXT_CELLS)) if column in texts else natural
        for column, natural, least in widths
    ]


def _borders(table: Table) -> int:
    """Cells for borders and padding."""
    return 3 * len(table.columns) + 1


def _column_widths(table: Table, room: int) -> list[int]:
    """The widths at which the table fits into `room`, the widest columns wrapped between words;
    empty where the longest words do not fit."""
    widths, least = _natural_widths(table), _least_widths(table)
    room -= _borders(table)
    if sum(least) > room:
        return []
    while sum(widths) > room:
        spare = [(width, index) for index, width in enumerate(widths) if width > least[index]]
        widths[max(spare)[1]] -= 1
    return widths


def _rich_table(table: Table, widths: list[int]) -> RichTable:
    rich = RichTable()
    for index, (column, width) in enumerate(zip(table.columns, widths, strict=True)):
        justify = "left" if index == 0 or column in table.text_columns else "right"
        rich.add_column(Text(column), justify=justify, width=width, overflow="fold")
    for row in table.rows:
        rich.add_row(*map(Text, row))
    return rich


def _vertical(table: Table) -> list[Text]:
    """The rows one after another, a cell a line."""
    lines: list[Text] = []
    for first, *cells in table.rows:
        lines.append(Text(first, style="bold"))
        for column, cell in zip(table.columns[1:], cells, strict=True):
            name = column.replace("\n", " ")
            lines.append(Text(f"  {name}: {cell}" if name else f"  {cell}"))
    return lines


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinity, which JSON has not."""
    if is_object(value):
        return {key: _finite(v) for key, v in value.items()}
    if is_sequence(value):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def mebibytes(count: float) -> str:
    """Bytes for people: GiB, MiB, or what is left of one."""
    if count < 2**20:
        return f"{count / 2**10:.0f} KiB" if count >= 2**10 else f"{count:.0f} B"
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.1f} s" if seconds < 60 else f"{minutes} min {rest:02d} s"
