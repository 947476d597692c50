"""Lines of a task set: the form of questions, and the positions of right choices."""

from collections.abc import Callable
from random import Random
from typing import Any

Line = dict[str, Any]


def pairs(table: str) -> list[tuple[str, str]]:
    """The pairs of a table written "a:b c:d"."""
    split = (pair.replace("_", " ").split(":") for pair in table.split())
    return [(left, right) for left, right in split]


def question(text: str, answer: str = "") -> str:
    return f"Question: {text}\nAnswer: {answer}".rstrip()


def chosen(kind: str, prompt: str, right: str, wrong: list[str]) -> Line:
    """A choice with the right one first; `balanced` moves it."""
    return {"prompt": prompt, "choices": [right, *wrong], "answer": 0, "kind": kind}


def balanced(lines: list[Line], rng: Random) -> list[Line]:
    """The lines shuffled, with the right choice equally often at each position."""
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
    """`count` lines of a template with distinct questions, not counting worked examples."""
    lines_by_question: dict[str, Line] = {}
    while len(lines_by_question) < count:
        line = make()
        lines_by_question.setdefault(line["prompt"].rpartition("\n\n")[2], line)
    return list(lines_by_question.values())


def near(rng: Random, right: int) -> list[str]:
    """Three other numbers near a number, none below zero."""
    others = [n for n in range(max(right - 5, 0), right + 6) if n != right]
    return [str(n) for n in rng.sample(others, 3)]
