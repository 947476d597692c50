"""Task examples: a prompt, and what makes its answer right. Bundled sets, or a user's .jsonl file.

A line of a file has one of two shapes:

    {"prompt": ..., "expected": ..., "match": ..., "kind": ...}   the model writes the answer
    {"prompt": ..., "choices": [...], "answer": ..., "kind": ...} the likeliest choice is its answer

`match` ("exact" if left out) and `kind` ("task") are optional. Leaves out how an answer is made
and scored (scoring.py). Imports no torch.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from salient.core.errors import CalibrationError

from .numerals import last_number

Match = Literal["exact", "contains", "regex", "numeric", "choice"]
WRITTEN: tuple[Match, ...] = tuple(m for m in get_args(Match) if m != "choice")

BUNDLED = ("arithmetic", "code", "extraction", "knowledge", "language", "reasoning")
ALL = "bundled"
LARGEST_FILE = 64 * 2**20  # bytes
LONGEST_PATTERN = 500  # characters of a regular expression
MOST_CHOICES = 26  # one letter each

_SHAPES = (
    "Each line is {'prompt', 'expected', 'match', 'kind'} for an answer that the model writes, or "
    "{'prompt', 'choices', 'answer', 'kind'} for a choice by likelihood"
)
_KEYS = {
    "expected": {"prompt", "expected", "match", "kind"},
    "choices": {"prompt", "choices", "answer", "kind"},
}


@dataclass(frozen=True)
class Example:
    """One prompt and its right answer.

    expected: the right answers, any of which does; for a choice, its text
    choices, answer: what to choose from, and the index of the right one; () and None for an
        answer that the model writes
    id: the set's name and the line, such as "arithmetic:12"
    """

    prompt: str
    kind: str
    expected: tuple[str, ...]
    match: Match
    choices: tuple[str, ...]
    answer: int | None
    id: str

    @property
    def chance(self) -> float:
        """The share that a guess gets right, 0 to 1; 0 for a written answer."""
        return 1 / len(self.choices) if self.choices else 0.0

    @property
    def context(self) -> str:
        """The prompt without the white space at its end, which belongs to the next token."""
        return self.prompt.rstrip()

    @property
    def continuations(self) -> tuple[str, ...]:
        """The choices as they follow `context`: after the prompt's white space, or one space."""
        space = self.prompt[len(self.context) :] or " "
        return tuple(space + choice for choice in self.choices)


@dataclass(frozen=True)
class TaskSet:
    """Examples under one name, in their file's order."""

    name: str
    examples: tuple[Example, ...]


def read_tasks(name: str) -> TaskSet:
    """The examples called `name`: a bundled set, 'bundled' for all of those, or a .jsonl file.

    Raises CalibrationError naming file and line when an example cannot be used.
    """
    if name == ALL:
        return TaskSet(name, tuple(e for each in BUNDLED for e in read_tasks(each).examples))
    if name in BUNDLED:
        data = (files("salient.validate.tasks") / "data" / f"{name}.jsonl").read_bytes()
        return TaskSet(name, _examples(data, f"the bundled set {name}", name))
    path = Path(name).expanduser()
    if path.suffix != ".jsonl":
        raise CalibrationError(
            f"No task set {name[:200]!r}. Give a .jsonl file, '{ALL}' for all that come with "
            f"Salient, or one of {', '.join(BUNDLED)}."
        )
    return TaskSet(path.stem, _examples(_read(path), str(path), path.stem))


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size <= LARGEST_FILE:
            return path.read_bytes()
    except (OSError, ValueError) as error:
        raise CalibrationError(
            f"Cannot read the task file {str(path)!r} ({getattr(error, 'strerror', error)}). Give "
            f"a .jsonl file, or a set that comes with Salient: {', '.join(BUNDLED)}."
        ) from None
    raise CalibrationError(
        f"{path} has {size / 2**20:.0f} MiB. A task file has at most {LARGEST_FILE >> 20} MiB; "
        "some hundred lines are enough."
    )


def _examples(data: bytes, where: str, name: str) -> tuple[Example, ...]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CalibrationError(
            f"{where}, line {line}: not UTF-8 text (byte {error.start}). Convert the file, for "
            "example with iconv."
        ) from None
    found = tuple(
        _example(line, f"{where}, line {number}", f"{name}:{number}")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    )
    if not found:
        raise CalibrationError(f"{where} holds no example. {_SHAPES}.")
    return found


def _example(line: str, where: str, name: str) -> Example:
    row = _row(line, where)
    prompt = _text(row, "prompt", where)
    kind = _text(row, "kind", where) if "kind" in row else "task"
    if "choices" in row:
        choices = _choices(row["choices"], where)
        answer = _answer(row.get("answer"), choices, where)
        return Example(prompt, kind, (choices[answer],), "choice", choices, answer, name)
    match = row.get("match", "exact")
    if match not in WRITTEN:
        raise CalibrationError(
            f"{where}: 'match' is {_short(match)}. It is one of {', '.join(WRITTEN)}; a choice "
            "has 'choices' and 'answer' instead."
        )
    return Example(prompt, kind, _expected(row, match, where), match, (), None, name)


def _row(line: str, where: str) -> Mapping[str, Any]:
    """The line's object, its keys those of one shape."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CalibrationError(
            f"{where}: not JSON ({error}). A .jsonl file has one object a line."
        ) from None
    if not isinstance(row, dict):
        raise CalibrationError(f"{where}: found {_short(row)}, not an object. {_SHAPES}.")
    asked = [key for key in _KEYS if key in row]
    if "prompt" not in row or len(asked) != 1 or ("choices" in row and "answer" not in row):
        keys = ", ".join(_short(key) for key in list(row)[:8]) or "no keys"
        raise CalibrationError(f"{where}: found {keys}. {_SHAPES}.")
    unknown = [key for key in row if key not in _KEYS[asked[0]]]
    if unknown:
        raise CalibrationError(
            f"{where}: unknown key {_short(unknown[0])} beside '{asked[0]}'. {_SHAPES}."
        )
    return row


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row[key]
    if not _is_text(value):
        raise CalibrationError(
            f"{where}: {key!r} is {_short(value)}. Give a string that is not empty."
        )
    return value


def _is_text(value: Any) -> bool:
    """Words that a tokenizer takes: no half of a surrogate pair, which JSON can write."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and not any("\ud800" <= letter <= "\udfff" for letter in value)
    )


def _choices(value: Any, where: str) -> tuple[str, ...]:
    many = isinstance(value, list) and 2 <= len(value) <= MOST_CHOICES
    if not many or not all(map(_is_text, value)):
        raise CalibrationError(
            f"{where}: 'choices' is {_short(value)}. Give a list of 2 to {MOST_CHOICES} strings "
            "that are not empty."
        )
    choices = tuple(choice.strip() for choice in value)
    for choice in choices:
        if choices.count(choice) > 1:
            raise CalibrationError(
                f"{where}: the choice {_short(choice)} is there twice. Give each once."
            )
    return choices


def _answer(value: Any, choices: tuple[str, ...], where: str) -> int:
    if isinstance(value, str) and value.strip() in choices:
        return choices.index(value.strip())
    if type(value) is int and 0 <= value < len(choices):
        return value
    raise CalibrationError(
        f"{where}: 'answer' is {_short(value)}. Give the index of the right choice, 0 to "
        f"{len(choices) - 1}, or its text."
    )


def _expected(row: Mapping[str, Any], match: Match, where: str) -> tuple[str, ...]:
    value = row["expected"]
    given = value if isinstance(value, list) else [value]
    if match == "numeric":
        given = [str(v) if type(v) in (int, float) else v for v in given]
    if not given or not all(map(_is_text, given)):
        raise CalibrationError(
            f"{where}: 'expected' is {_short(value)}. Give a string, or a list of strings of which "
            'any is right; a number only with "match": "numeric".'
        )
    for each in given:
        if match == "numeric" and last_number(each) is None:
            raise CalibrationError(
                f"{where}: 'expected' is {_short(each)}, which has no number. Give one such as "
                "'12', '0.5' or '3/4', or another 'match'."
            )
        if match == "regex":
            _check_pattern(each, where)
    return tuple(given)


def _check_pattern(pattern: str, where: str) -> None:
    if len(pattern) > LONGEST_PATTERN:
        raise CalibrationError(
            f"{where}: a regular expression of {len(pattern)} characters. Give at most "
            f"{LONGEST_PATTERN}."
        )
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise CalibrationError(
            f"{where}: {_short(pattern)} is no regular expression ({error}). Mend it, or give "
            'the plain words with "match": "contains".'
        ) from None


def _short(value: Any) -> str:
    """What was found, short enough for one line."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
