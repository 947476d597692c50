"""Targets of modules in compressed-tensors' lists: a module's name, or `re:` and an expression.

Expressions may be anybody's: those that could take long are not tried. Imports no torch.
"""

import re
from functools import lru_cache

LONGEST_EXPRESSION, MOST_REPEATS = 1000, 8
_REPEATS, _REPEATED_GROUP = re.compile(r"(?<!\\)[*+{]"), re.compile(r"(?<!\\)\)[*+{]")


def is_expression(target: str) -> bool:
    """Whether `target` is an expression, and not a name."""
    return target.startswith("re:")


def matches_target(name: str, target: str) -> bool:
    """Whether `target` matches the module `name`: equal, or an expression that its start fits."""
    if not is_expression(target):
        return target == name
    expression = bounded_expression(target[3:])
    return expression is not None and expression.match(name) is not None


@lru_cache(maxsize=4096)
def bounded_expression(text: str) -> re.Pattern[str] | None:
    """The expression `text`; None if it is invalid or could take long."""
    if len(text) > LONGEST_EXPRESSION or len(_REPEATS.findall(text)) > MOST_REPEATS:
        return None
    if _REPEATED_GROUP.search(text):
        return None
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError):
        return None
