"""Task sets: the bundled ones, or a user's .jsonl file.

A line of a file has one of two shapes:

    {"prompt": ..., "expected": ..., "match": ..., "kind": ...}   the model writes the answer
    {"prompt": ..., "choices": [...], "answer": ..., "kind": ...} the likeliest choice is its answer

`match` ("exact" by default) and `kind` ("task") are optional. Imports no torch.
"""

import math
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from salient.core.errors import CalibrationError
from salient.core.input_files import parse_json, read_input
from salient.core.printable import half_pair

from .scoring import Example, Match, last_number

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


def read_tasks(name: str) -> tuple[Example, ...]:
    """A bundled set, 'bundled' for all of those, or a .jsonl file, each in its file's order.

    Raises CalibrationError naming file and line of an invalid example.
    """
    if name == ALL:
        return tuple(e for each in BUNDLED for e in read_tasks(each))
    if name in BUNDLED:
        data = (files("salient.validate.tasks") / "data" / f"{name}.jsonl").read_bytes()
        return _examples(data, f"the bundled set {name}", name)
    path = Path(name).expanduser()
    if path.suffix != ".jsonl":
        raise CalibrationError(
            f"No task set {name[:200]!r}. Give a .jsonl file, '{ALL}' for all that come with "
            f"Salient, or one of {', '.join(BUNDLED)}."
        )
    return _examples(_read(path), str(path), path.stem)


def _read(path: Path) -> bytes:
    try:
        return read_input(path, LARGEST_FILE)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CalibrationError(
            f"Cannot read the task file {str(path)!r} ({reason}). Give a .jsonl file of some "
            f"hundred lines, or a set that comes with Salient: {', '.join(BUNDLED)}."
        ) from None


def _examples(data: bytes, where: str, name: str) -> tuple[Example, ...]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CalibrationError(
            f"{where}, line {line}: not UTF-8 text (byte {error.start}). Convert the file, for "
            "example with iconv."
        ) from None
    examples = tuple(
        _TaskLine(line, f"{where}, line {number}").example(f"{name}:{number}")
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip()
    )
    if not examples:
        raise CalibrationError(f"{where} holds no example. {_SHAPES}.")
    return examples


class _TaskLine:
    """A line of a file, at `where`: an object whose keys are those of one shape."""

    def __init__(self, line: str, where: str):
        self.where = where
        try:
            row = parse_json(line, half_pairs=True)
        except ValueError as error:
            raise self.fault(f"not JSON ({error}). A .jsonl file has one object a line.") from None
        if not isinstance(row, dict):
            raise self.fault(f"found {_short(row)}, not an object. {_SHAPES}.")
        shapes = [key for key in _KEYS if key in row]
        if "prompt" not in row or len(shapes) != 1 or ("choices" in row and "answer" not in row):
            keys = ", ".join(_short(key) for key in list(row)[:8]) or "no keys"
            raise self.fault(f"found {keys}. {_SHAPES}.")
        for key in row.keys() - _KEYS[shapes[0]]:
            raise self.fault(f"unknown key {_short(key)} next to '{shapes[0]}'. {_SHAPES}.")
        self.row: dict[str, Any] = row

    def fault(self, text: str) -> CalibrationError:
        return CalibrationError(f"{self.where}: {text}")

    def refuse(self, key: str, expected: str) -> CalibrationError:
        """The fault of the value of `key`."""
        return self.fault(f"{key!r} is {_short(self.row[key])}. {expected}")

    def example(self, name: str) -> Example:
        prompt, kind = self._text("prompt"), self._text("kind") if "kind" in self.row else "task"
        if "choices" in self.row:
            choices = self._choices()
            answer = self._answer(choices)
            return Example(prompt, kind, (choices[answer],), "choice", choices, answer, name)
        match = self.row.setdefault("match", "exact")
        if match not in WRITTEN:
            expected = f"It is one of {', '.join(WRITTEN)}; a choice has 'choices' and 'answer'"
            raise self.refuse("match", f"{expected} instead.")
        return Example(prompt, kind, self._expected(match), match, (), None, name)

    def _text(self, key: str) -> str:
        if not _is_text(self.row[key]):
            raise self.refuse(key, "Give a string that is not empty.")
        return self.row[key]

    def _choices(self) -> tuple[str, ...]:
        value = self.row["choices"]
        many = isinstance(value, list) and 2 <= len(value) <= MOST_CHOICES
        if not many or not all(map(_is_text, value)):
            expected = f"Give a list of 2 to {MOST_CHOICES} strings that are not empty."
            raise self.refuse("choices", expected)
        choices = tuple(choice.strip() for choice in value)
        for choice in choices:
            if choices.count(choice) > 1:
                raise self.fault(f"the choice {_short(choice)} is there twice. Give each once.")
        return choices

    def _answer(self, choices: tuple[str, ...]) -> int:
        value = self.row["answer"]
        if isinstance(value, str) and value.strip() in choices:
            return choices.index(value.strip())
        if type(value) is int and 0 <= value < len(choices):
            return value
        last = len(choices) - 1
        raise self.refuse(
            "answer", f"Give the index of the right choice, 0 to {last}, or its text."
        )

    def _expected(self, match: Match) -> tuple[str, ...]:
        value = self.row["expected"]
        texts = value if isinstance(value, list) else [value]
        if match == "numeric":
            texts = [str(v) if type(v) in (int, float) else v for v in texts]
        if not texts or not all(map(_is_text, texts)):
            expected = "Give a string, or a list of strings of which any is right; a number only"
            raise self.refuse("expected", f'{expected} with "match": "numeric".')
        for text in texts:
            if match == "numeric" and last_number(text) is None:
                raise self.fault(
                    f"'expected' is {_short(text)}, which has no number. Give one such as '12', "
                    "'0.5' or '3/4', or another 'match'."
                )
            if match == "regex":
                self._check_pattern(text)
        return tuple(texts)

    def _check_pattern(self, pattern: str) -> None:
        size = len(pattern)
        if size > LONGEST_PATTERN:
            expected = f"Give at most {LONGEST_PATTERN}."
            raise self.fault(f"a regular expression of {size} characters. {expected}")
        try:
            re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise self.fault(
                f"{_short(pattern)} is no regular expression ({error}). Fix it, or give the plain "
                'text with "match": "contains".'
            ) from None


def _is_text(value: Any) -> bool:
    """Text that a tokenizer takes: no half of a surrogate pair, which JSON can write."""
    return isinstance(value, str) and bool(value.strip()) and not half_pair(value)


def _short(value: Any) -> str:
    """A value, short enough for one line."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
