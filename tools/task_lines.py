"""Lines of a task set: how a question is put, and how the right choices are spread evenly."""

from collections.abc import Callable
from random import Random
from typing import Any

Line = dict[str, Any]


def pairs(table: str) -> list[tuple[str, str]]:
    """The pairs of a table written "a:b c:d"."""
    split = (pair.replace("_", " ").split(":") for pair in table.split())
    return [(left, right) for left, right in split]


def question(words: str, answer: str = "") -> str:
    return f"Question: {words}\nAnswer: {answer}".rstrip()


def chosen(kind: str, prompt: str, right: str, wrong: list[str]) -> Line:
    """A choice with the right one first; `balanced` moves it."""
    return {"prompt": prompt, "choices": [right, *wrong], "answer": 0, "kind": kind}


def balanced(lines: list[Line], rng: Random) -> list[Line]:
    """The lines shuffled, the right choice equally often at each place."""
    rng.shuffle(lines)
    places = [number % len(line["choices"]) for number, line in enumerate(lines)]
    rng.shuffle(places)
    for line, place in zip(lines, places, strict=True):
        right, *wrong = line["choices"]
        rng.shuffle(wrong)
        line["choices"] = [*wrong[:place], right, *wrong[place:]]
        line["answer"] = place
    return lines


def distinct(make: Callable[[], Line], count: int) -> list[Line]:
    """`count` lines of a template, no question twice: what follows the worked ones counts."""
    found: dict[str, Line] = {}
    while len(found) < count:
        line = make()
        found.setdefault(line["prompt"].rpartition("\n\n")[2], line)
    return list(found.values())


def near(rng: Random, right: int) -> list[str]:
    """Three other numbers near a number, none below zero."""
    others = [n for n in range(max(right - 5, 0), right + 6) if n != right]
    return [str(n) for n in rng.sample(others, 3)]
