"""Is an answer right? Written answers by their match, choices by likelihood. Imports no torch.

The caller cuts a written answer at its stop string or first line end, and computes the
log-probabilities of the choices.
"""

import json
import math
import subprocess
import sys
from collections.abc import Sequence

from salient.core.errors import CalibrationError

from .numerals import last_number
from .task_sets import Example

LONGEST_ANSWER = 20_000  # characters that a regular expression sees
PATIENCE = 5.0  # seconds for one regular expression on one answer
TOLERANCE = 1e-6  # relative, of numbers

_SEARCH = "import json, re, sys; print(bool(re.search(*json.load(sys.stdin))))"


def score(example: Example, answer: str) -> bool:
    """Whether `answer`, as the model wrote it, is right by the example's match.

    exact: equal to one expected text; case and white space at both ends do not count
    contains: has one expected text in it; case does not count
    regex: one expected pattern is found in it, as re.search does
    numeric: its last number is an expected one, to a relative 1e-6
    choice: begins with the right choice's text, or its letter alone or before one of ").:,"

    Raises CalibrationError for a regular expression that takes longer than 5 seconds.
    """
    said = answer.strip().casefold()
    if example.match == "choice":
        return _chosen(example.choices, answer) == example.answer
    if example.match == "regex":
        return any(_found(pattern, answer, example.id) for pattern in example.expected)
    if example.match == "numeric":
        return any(_same_number(expected, answer) for expected in example.expected)
    if example.match == "contains":
        return any(expected.strip().casefold() in said for expected in example.expected)
    return any(expected.strip().casefold() == said for expected in example.expected)


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


def _same_number(expected: str, answer: str) -> bool:
    right, said = last_number(expected), last_number(answer)
    if right is None or said is None:
        return False
    return math.isclose(right, said, rel_tol=TOLERANCE)


def _chosen(choices: tuple[str, ...], answer: str) -> int | None:
    """Which choice `answer` begins with, by text (the longest that fits) or by letter."""
    said = answer.strip()
    fitting = [c for c in choices if _begins(said.casefold(), c.casefold())]
    if fitting:
        return choices.index(max(fitting, key=len))
    letter = said.lstrip("(")[:2]
    place = ord(letter[0].upper()) - ord("A") if letter else -1
    alone = len(letter) == 1 or letter[1:] in (")", ".", ":", ",", "\n")
    return place if alone and 0 <= place < len(choices) else None


def _begins(said: str, choice: str) -> bool:
    """Whether `said` begins with the whole of `choice`: "12" and "1.5" do not begin with "1"."""
    rest = said[len(choice) :]
    if not said.startswith(choice) or (rest[:1].isalnum() and choice[-1:].isalnum()):
        return False
    return not (rest[:1] in (".", ",") and rest[1:2].isdigit())


def _found(pattern: str, answer: str, name: str) -> bool:
    """Whether `pattern` is found in `answer`. Searched in a process of its own.

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
