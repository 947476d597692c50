"""Options, variables, values and architectures that each release of vLLM and SGLang accepts.

The table is read off the engines' sources by tools/engine_options.py.
"""

import json
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict, cast

Release = tuple[int, ...]
ENGINES = ("vllm", "sglang")
OLDEST_USED: dict[str, Release] = {"vllm": (0, 9), "sglang": (0, 5)}
Kind = Literal["options", "variables", "values", "architectures"]


class _Table(TypedDict):
    """`releases`, and lists of names by the spans of releases that accept them."""

    releases: list[str]
    options: dict[str, list[str]]
    variables: dict[str, list[str]]
    values: dict[str, list[str]]
    architectures: dict[str, list[str]]


@cache
def _tables() -> dict[str, _Table]:
    text = Path(__file__).with_name("engine_options.json").read_text(encoding="utf-8")
    return cast("dict[str, _Table]", json.loads(text))


@cache
def _names(engine: str, kind: Kind) -> dict[str, str]:
    """The spans of each name."""
    return {name: spans for spans, names in _tables()[engine][kind].items() for name in names}


def has_table(engine: str) -> bool:
    return engine in _tables()


@cache
def releases(engine: str) -> tuple[Release, ...]:
    """The releases in the table, oldest first."""
    return tuple(map(_release, _tables()[engine]["releases"]))


def _release(name: str) -> Release:
    return tuple(int(part) for part in name.split("."))


@cache
def _spans(engine: str, kind: Kind, name: str) -> tuple[tuple[Release, Release | None], ...]:
    text = _names(engine, kind).get(name, "")
    ends = [span.split("-") for span in text.split(",") if span]
    return tuple((_release(first), _release(last) if last else None) for first, last in ends)


def accepts(engine: str, name: str, release: Release | None, kind: Kind = "options") -> bool:
    """Whether the release accepts it; whether any does, if the release is None.

    A release between two of the table is taken as the older one, one outside as the nearest.
    name: with underscores; an option's prefix stands for it if no other option has it (argparse)
    """
    spans = _spans(engine, kind, name)
    if not spans and kind == "options":
        spans = _spans(engine, kind, _abbreviated(engine, name))
    if release is None:
        return bool(spans)
    known = releases(engine)
    row = max((one for one in known if one <= release), default=known[0])
    return any(first <= row and (last is None or row < last) for first, last in spans)


@cache
def _abbreviated(engine: str, name: str) -> str:
    options = _names(engine, "options")
    if name.startswith("no_") and name[3:] in options:
        return name[3:]
    matches = [option for option in options if option.startswith(name)]
    return matches[0] if len(matches) == 1 else name


def choices_of(engine: str, name: str, release: Release | None) -> list[str]:
    """The values that an option takes, [] if they are not in the table."""
    values = [value.partition(" ") for value in _names(engine, "values")]
    of_option = [value for option, _, value in values if option == name]
    return [one for one in of_option if accepts(engine, f"{name} {one}", release, "values")]


def names_of(engine: str, kind: Kind) -> list[str]:
    """What is accepted by any release."""
    return list(_names(engine, kind))


def option_names(engine: str) -> list[str]:
    """The options of all releases."""
    return names_of(engine, "options")


def span_text(engine: str, name: str, kind: Kind = "options") -> str:
    """The releases that accept it: "0.21 or newer", "before 0.18", "" if all or none do.

    All are those that are still in use, from OLDEST_USED on.
    """
    spans, oldest = _spans(engine, kind, name), OLDEST_USED[engine]
    parts: list[str] = []
    for first, last in spans:
        if last is None:
            parts += [f"{_name(first)} or newer"] if first > oldest else []
        else:
            since = f"{_name(first)} or newer, " if first > oldest else ""
            parts.append(f"{since}before {_name(last)}")
    return " or ".join(parts)


def ended(engine: str, name: str, release: Release | None) -> Release | None:
    """The first release without an option that older ones have; None if there is none so far."""
    ends = [last for _, last in _spans(engine, "options", name) if last]
    reached = [last for last in ends if release is None or last <= release]
    return max(reached, default=None)


def began(engine: str, name: str, kind: Kind = "options") -> Release | None:
    """The first release with it, None if no release has it."""
    return min((first for first, _ in _spans(engine, kind, name)), default=None)


def _name(release: Release) -> str:
    return ".".join(map(str, release))
