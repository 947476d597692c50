"""Arguments of vLLM's server, read: which one a word names, and what its text is worth.

Left out: checking one argument against another; that is for the rules.
"""

import difflib
import json
import re
from typing import Any

from .argument_table import ALIASES, GONE, KINDS, SHORT

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_POWERS = "kmgt"


def full_name(written: str, *, whole: bool = False) -> str:
    """The name of the argument that `written` names: dashes, short forms and beginnings resolved.

    As argparse does, a beginning that fits one argument alone stands for it, unless `whole`.
    An unknown name comes back with underscores.
    """
    bare = written.lstrip("-").replace("-", "_")
    if written.startswith("-") and not written.startswith("--") and bare in SHORT:
        return SHORT[bare]
    name = ALIASES.get(bare, bare)
    if whole or name in KINDS or any(name == gone.name for gone in GONE):
        return name
    fits = [known for known in KINDS if len(name) > 3 and known.startswith(name)]
    return fits[0] if len(fits) == 1 else name


def nearest(name: str) -> str | None:
    """The known argument that is spelled most like `name`, None if none is like it."""
    found = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.8)
    return found[0] if found else None


def value_of(name: str, text: str) -> Any:
    """`text` as a value of the argument `name`; the text itself where it is none."""
    kind = KINDS.get(name, "text")
    try:
        if kind in ("integer", "size"):
            return _size(text) if kind == "size" else int(text)
        if kind == "number":
            return float(text)
        if kind == "json":
            return json.loads(text)
    except (ValueError, OverflowError, RecursionError):
        return text
    return text


def _size(text: str) -> int:
    """32k is 32000, 32K is 32768, "auto" is -1 (vllm/utils/argparse_utils.py)."""
    if text == "auto":
        return -1
    found = _SIZE.fullmatch(text)
    if not found:
        return int(text)
    power = _POWERS.index(found[2].lower()) + 1
    return int(float(found[1]) * (1000 if found[2].islower() else 1024) ** power)


def fits(name: str, value: Any) -> bool:
    """Whether `value` has the type that the argument `name` takes; unknown arguments take all."""
    kind = KINDS.get(name)
    if kind is None or value is None:
        return True
    if kind == "flag":
        return isinstance(value, bool)
    if kind in ("integer", "size"):
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "text":
        return not isinstance(value, dict | list | bool)
    return not isinstance(value, bool) if kind == "list" else True
