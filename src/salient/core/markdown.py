"""Text and tables of GitHub Markdown. Imports no torch."""

import re
from collections.abc import Collection, Iterable, Sequence

from .printable import printable

_MARKUP = re.compile(r"[!#$&*<>@\[-`{-~]|:(?=//)|(?<=www)\.")
_MENTIONS = ("@", "#")  # GitHub links names and numbers after them
_WORD_JOINER = "&#8288;"  # of no width; after a mention's sign it prevents the link


def escape_markdown(text: str) -> str:
    """`text` on one line, with every sign that Markdown, HTML or GitHub would interpret as an
    entity, and without controls."""
    return _MARKUP.sub(_entity, printable(text).replace("\t", " ")).replace("\n", "<br>")


def _entity(match: re.Match[str]) -> str:
    sign = match.group()
    return f"&#{ord(sign)};" + _WORD_JOINER * (sign in _MENTIONS)


def markdown_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], text_columns: Collection[str] = ()
) -> str:
    """A table of cells that are Markdown; only pipes are escaped.

    The first column and `text_columns` are aligned left, the others, numbers, right.
    """
    marks = [
        "---" if index == 0 or column in text_columns else "--:"
        for index, column in enumerate(columns)
    ]
    return "\n".join([_row(columns), f"|{'|'.join(marks)}|", *map(_row, rows)])


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
