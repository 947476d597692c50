"""Patterns of --skip: which linears they mean, and the fewest that mean given ones. No torch."""

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatch

EXPERTS = "*.experts.*"  # engines store the experts of a block as one stack


def matches(name: str, pattern: str) -> bool:
    """Whether --skip `pattern` means the linear `name`: all of it, its last parts, or a glob."""
    return (
        name == pattern
        or name.endswith(f".{pattern}")
        or fnmatch(name, pattern)
        or fnmatch(name, f"*.{pattern}")
    )


def covering(names: Iterable[str], others: Collection[str]) -> list[str]:
    """Patterns that mean all of `names`, and none of `others` but experts next to those named.

    One pattern for linears of one name in many layers, as short as `others` allow.
    """
    patterns: dict[str, None] = {}
    for name in names:
        if any(matches(name, pattern) for pattern in patterns):
            continue
        if ".experts." in name:
            patterns[EXPERTS] = None
            continue
        parts = re.sub(r"(?<=\.)\d+(?=\.)", "*", name).split(".")
        tails = [".".join(parts[-count:]) for count in range(1, len(parts) + 1) if others]
        free = (tail for tail in tails if not any(matches(other, tail) for other in others))
        patterns[next(free, name)] = None
    return list(patterns)


def skip_options(patterns: Iterable[str]) -> str:
    """`patterns` as typed in a shell."""
    return " ".join(f"--skip '{pattern}'" for pattern in patterns)
