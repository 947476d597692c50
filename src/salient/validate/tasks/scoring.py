"""Examples and their scores: written answers by their match, choices by likelihood.

The caller cuts a written answer at its stop string or first line end, and computes the
log-probabilities of the choices. Imports no torch.
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from salient.core.errors import CalibrationError

Match = Literal["exact", "contains", "regex", "numeric", "choice"]

LONGEST_ANSWER = 20_000  # characters that a regular expression sees
LONGEST_NUMERAL = 2_000  # characters of the end of a text that are searched for a number
PATIENCE = 5.0  # seconds for one regular expression on one answer
TOLERANCE = 1e-6  # relative, of numbers

_SEARCH = "import json, re, sys; print(bool(re.search(*json.load(sys.stdin))))"
_NUMBER = re.compile(
    r"""
    (?P<sign>(?<![\w)])[-\N{MINUS SIGN}])?  # "10-5" and "x-5" subtract: no sign there
    (?P<body>
        (?<!\w)(?<!\d\.)                  # not the "3" of "1.2.3"
        (?: \d{1,3}(?:,\d{3})+(?!\d) | \d+ )
        (?:\.\d+)?
      | (?<![\w.])\.\d+
    )
    (?P<power>[eE][-+]?\d{1,3}(?!\w))?
    (?P<under>(?:[ ]?/[ ]?\d+)*)
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Example:
    """One prompt and its right answer.

    expected: the right answers, any of which is accepted; for a choice, its text
    choices, answer: the choices, and the index of the right one; () and None for an answer that
        the model writes
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
        """The share that guessing gets right, 0 to 1; 0 for a written answer."""
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


def score(example: Example, answer: str) -> bool:
    """Whether `answer`, as the model wrote it, is right by the example's match.

    exact: equal to one expected text; case and white space at both ends do not count
    contains: has one expected text in it; case does not count
    regex: matches one expected pattern, as re.search does
    numeric: its last number is an expected one, to a relative 1e-6
    choice: begins with the right choice's text, or its letter alone or before one of ").:,"

    Raises CalibrationError for a regular expression that takes longer than 5 seconds.
    """
    expected, text = example.expected, answer.strip().casefold()
    match example.match:
        case "choice":
            return _chosen(example.choices, answer.strip()) == example.answer
        case "regex":
            return any(_search(pattern, answer, example.id) for pattern in expected)
        case "numeric":
            return any(_same_number(each, answer) for each in expected)
        case "contains":
            return any(each.strip().casefold() in text for each in expected)
        case "exact":
            return any(each.strip().casefold() == text for each in expected)


def choose(logprobs: Sequence[float], lengths: Sequence[int], *, normalized: bool) -> int:
    """The index of the likeliest choice; the first of equals. NaN counts as never likely.

    logprobs: for each choice, the sum of its tokens' log-probabilities after the prompt, nats
    lengths: each choice's length in bytes of UTF-8, without the space before it
    normalized: divide by the length first

    These are the `acc` and `acc_norm` of EleutherAI's lm-evaluation-harness
    (lm_eval/api/task.py), which counts characters: the same where the choices are ASCII.
    """
    scores = [
        -math.inf if math.isnan(logprob) else logprob / max(length, 1) if normalized else logprob
        for logprob, length in zip(logprobs, lengths, strict=True)
    ]
    return scores.index(max(scores))


def last_number(text: str) -> float | None:
    """The last number in `text` as a person reads it, None where it has none.

    Understood: a minus sign, decimals, commas between thousands, powers of ten ("1e-3") and
    fractions ("3/4"). A fraction over zero is no number. Number words and units are ignored.
    """
    numbers = list(_NUMBER.finditer(text[-LONGEST_NUMERAL:]))
    if not numbers:
        return None
    last = numbers[-1]
    value = float(last["body"].replace(",", "") + (last["power"] or ""))
    under = [float(part) for part in last["under"].split("/")[1:]]
    if len(under) > 1:  # a date, or a path
        return under[-1] if math.isfinite(under[-1]) else None
    if under:
        value = value / under[0] if under[0] else math.nan
    if not math.isfinite(value):
        return None
    return -value if last["sign"] else value


def _same_number(expected: str, answer: str) -> bool:
    right, value = last_number(expected), last_number(answer)
    return right is not None and value is not None and math.isclose(right, value, rel_tol=TOLERANCE)


def _chosen(choices: tuple[str, ...], answer: str) -> int | None:
    """Which choice `answer` begins with, by text (the longest match) or by letter."""
    matches = [c for c in choices if _begins(answer.casefold(), c.casefold())]
    if matches:
        return choices.index(max(matches, key=len))
    letter = answer.lstrip("(")[:2]
    index = ord(letter[0].upper()) - ord("A") if letter else -1
    alone = len(letter) == 1 or letter[1:] in (")", ".", ":", ",", "\n")
    return index if alone and 0 <= index < len(choices) else None


def _begins(answer: str, choice: str) -> bool:
    """Whether `answer` begins with the whole of `choice`: "12" and "1.5" do not begin with "1"."""
    rest = answer[len(choice) :]
    if not answer.startswith(choice) or (rest[:1].isalnum() and choice[-1:].isalnum()):
        return False
    return not (rest[:1] in (".", ",") and rest[1:2].isdigit())


def _search(pattern: str, answer: str, name: str) -> bool:
    """Whether `pattern` matches in `answer`. Searched in a process of its own.

    Python's `re` backtracks, so a pattern of a few characters can run for years on a short text,
    and nothing inside the same process can stop it on every platform.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH],
            input=json.dumps([pattern, answer[:LONGEST_ANSWER]]),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    except subprocess.SubprocessError:
        raise CalibrationError(
            f"{name}: the search for {pattern[:80]!r} did not end within {PATIENCE:g} s on one "
            'answer. Take repeats out of repeats, as in "(a+)+", or use "contains".'
        ) from None
    return done.stdout.strip() == "True"
