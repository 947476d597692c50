"""The result of a command: tables for people, one JSON document for programs.

Imports no torch.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from .printable import printable, printable_line
from .records import is_object, is_sequence


@dataclass(frozen=True)
class Table:
    """A titled table; the first column and `text_columns` are text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    text_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The outcome of a command.

    data: everything, as plain numbers, strings, lists and dicts
    tables, lines: what a person reads
    passed: False where the command's verdict is no (exit code 1)
    """

    data: dict[str, object]
    tables: list[Table] = field(default_factory=list[Table])
    lines: list[str] = field(default_factory=list[str])
    passed: bool = True

    def to_json(self) -> str:
        """The data as one JSON document."""
        return printable(json.dumps(_finite(self.data), indent=2, ensure_ascii=False))

    def show(self, console: Console) -> None:
        """Print tables and lines, without controls.

        No word in a cell is broken where the console has room for it.
        """
        for table in map(_printable, self.tables):
            console.print(Text(table.title, style="bold"), soft_wrap=True)
            widths = _column_widths(table, console.width)
            if widths:
                console.print(_rich_table(table, widths))
            else:
                console.print(*_vertical(table), sep="\n")
        for line in self.lines:
            console.print(Text(printable_line(line)), soft_wrap=True)


def _printable(table: Table) -> Table:
    """`table` without controls in its texts, which would also take other widths than they show."""
    return Table(
        printable(table.title),
        tuple(map(printable, table.columns)),
        [tuple(map(printable, row)) for row in table.rows],
        tuple(map(printable, table.text_columns)),
    )


def _column_widths(table: Table, room: int) -> list[int]:
    """The widths at which the table fits into `room`, the widest columns wrapped between words;
    empty where the longest words do not fit."""
    columns = list(zip(table.columns, *table.rows, strict=True))
    widths = [max(cell_len(line) for c in cells for line in c.split("\n")) for cells in columns]
    least = [max((cell_len(w) for c in cells for w in c.split()), default=0) for cells in columns]
    room -= 3 * len(columns) + 1  # borders and padding
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
            lines.append(Text(f"  {column}: {cell}" if column else f"  {cell}"))
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
