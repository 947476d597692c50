"""Lines with a label in the margin, and commands to type, as wide as a console.

Imports no torch.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from .printable import printable_line

COMMAND = "$"
_LEAST_TEXT = 20  # cells; a console that is narrower wraps by itself
_WIDEST_MARGIN = 18  # cells; a longer label has a row of its own
_PROMPT, _CONTINUED, _MARK = f"  {COMMAND} ", " " * 6, " \\"
_SHELL_WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")


@dataclass(frozen=True)
class SummaryLine:
    """A text and its label; the label COMMAND marks a line to type.

    style: rich's, of the label
    """

    label: str
    text: str
    style: str = "bold"


def show_lines(lines: Iterable[SummaryLine], console: Console, *, wrap: bool) -> None:
    """Print lines without controls, a label once where it repeats.

    wrap: whether to break between words at the console's width, commands with the shell's
        continuation mark; otherwise every line is whole
    """
    lines = list(lines)
    margin = max((cell_len(printable_line(line.label)) for line in lines), default=0) + 2
    margin = min(margin, _WIDEST_MARGIN)
    previous = ""
    for line in lines:
        label, text = printable_line(line.label), printable_line(line.text)
        if label == COMMAND:
            start, rest = _PROMPT, _CONTINUED
            rows = list(_command_rows(text, console.width)) if wrap else [text]
        else:
            start, rest = ("" if label == previous else label).ljust(margin), " " * margin
            if cell_len(start) > margin:
                console.print(Text(start, style=line.style), soft_wrap=True)
                start = rest
            room = max(_LEAST_TEXT, console.width - margin)
            rows = [row.plain.rstrip() for row in Text(text).wrap(console, room)]
            rows = rows if wrap else [text]
        for row in rows:
            console.print(Text.assemble((start, line.style), row), soft_wrap=True)
            start = rest
        previous = label


def _command_rows(command: str, width: int) -> Iterator[str]:
    """A command as rows that a shell joins; an option stays with its values where they fit."""
    groups: list[list[str]] = []
    for word in _SHELL_WORD.findall(command):
        if word.startswith("-") or not groups:
            groups.append([])
        groups[-1].append(word)
    row, room = "", width - len(_PROMPT)
    for index, group in enumerate(groups):
        mark = _MARK if index < len(groups) - 1 else ""
        whole = " ".join(group)
        pieces = [whole] if cell_len(whole + mark) <= room else group
        for place, piece in enumerate(pieces):
            mark = _MARK if (index, place) < (len(groups) - 1, len(pieces) - 1) else ""
            joined = f"{row} {piece}" if row else piece
            if row and cell_len(joined + mark) > room:
                yield row + _MARK
                joined, room = piece, width - len(_CONTINUED)
            row = joined
    yield row
