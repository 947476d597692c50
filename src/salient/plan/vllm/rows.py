"""Rows of this folder's JSON tables, as fields of records.

Lists become tuples, releases ("0.24", or a constant of versions.py) tuples of numbers, and a text
"$name" the table's own text of that name.
"""

import json
from pathlib import Path
from typing import Any, cast

from .versions import named_release

Rows = list[dict[str, Any]]


def read_table(file: str) -> tuple[dict[str, Rows], dict[str, str]]:
    """The lists of rows by name, and the texts. Raises KeyError for an unknown text or release."""
    table = json.loads(Path(__file__).with_name(file).read_text("utf-8"))
    texts: dict[str, str] = table.pop("texts")
    lists = cast("dict[str, Rows]", table)
    return {
        name: [{key: _value(key, value, texts) for key, value in row.items()} for row in rows]
        for name, rows in lists.items()
    }, texts


def _value(key: str, value: Any, texts: dict[str, str]) -> Any:
    if key in ("since", "until"):
        return named_release(value)
    if isinstance(value, list):
        return tuple(_value("", item, texts) for item in cast("list[Any]", value))
    return texts[value[1:]] if isinstance(value, str) and value.startswith("$") else value
