"""The result of a command: tables for people, one JSON document for programs.

Imports no torch.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text


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

    data: dict[str, Any]
    tables: list[Table] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    passed: bool = True

    def to_json(self) -> str:
        """The data as one JSON document."""
        return json.dumps(_finite(self.data), indent=2, ensure_ascii=False)

    def show(self, console: Console) -> None:
        """Print tables and lines."""
        for table in self.tables:
            console.print(Text(table.title, style="bold"), soft_wrap=True)
            console.print(_rich(table))
        for line in self.lines:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _rich(table: Table) -> RichTable:
    grid = RichTable()
    for number, column in enumerate(table.columns):
        text = number == 0 or column in table.text_columns
        grid.add_column(column, justify="left" if text else "right", overflow="fold")
    for row in table.rows:
        grid.add_row(*map(Text, row))
    return grid


def _finite(value: Any) -> Any:
    """`value` with null for NaN and infinity, which JSON has not."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def mebibytes(count: float) -> str:
    """Bytes for people: MiB below one GiB, GiB above."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.1f} s" if seconds < 60 else f"{minutes} min {rest:02d} s"
