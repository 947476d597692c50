"""Prompts of a given length, cut from a text.

Each prompt begins with a number of its own, the digits turned round so that no two in a row begin
alike: some servers reuse what they hold token by token, and would save the leading zeros.
"""

import random
from collections.abc import Callable
from itertools import islice

from salient.core.corpus import builtin
from salient.core.errors import RequestError

Count = Callable[[str], int]  # tokens of a text

WINDOWS = 16  # pieces of text that the numbered prompts share
DIGITS = 10


def windows(text: str, tokens: int, seed: int, count: Count | None = None) -> tuple[str, ...]:
    """Pieces of `text` that make prompts of about `tokens` tokens once they are numbered.

    count: tokens of a text; the prompts never have more than asked unless one word has. None
    takes a word for a token, which makes prompts longer than asked: the server's own count
    is what results report.

    Raises RequestError for a text without words.
    """
    words = (text or _heldout()).split()
    if not words:
        raise RequestError("The text for prompts has no words. Give one with a few pages.")
    chance = random.Random(seed)
    starts = [chance.randrange(len(words)) for _ in range(WINDOWS)]
    return tuple(_window(words, start, tokens, count) for start in starts)


def numbered(window: str, number: int) -> str:
    """The prompt with this number, of which the last ten digits count."""
    return f"{number % 10**DIGITS:0{DIGITS}d}"[::-1] + " " + window


def _heldout() -> str:
    return "\n".join(document.text for document in builtin("heldout"))


def _window(words: list[str], start: int, tokens: int, count: Count | None) -> str:
    if count is None:
        return _cut(words, start, tokens - 1)
    # the most words whose prompt has no more tokens than asked; a word has at least one
    low, high = 0, tokens
    while low < high:
        middle = (low + high + 1) // 2
        fits = count(numbered(_cut(words, start, middle), 0)) <= tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    return _cut(words, start, low)


def _cut(words: list[str], start: int, length: int) -> str:
    """`length` words from `start` on, round and round."""
    turns = words[start:] + words[:start]
    return " ".join(islice((w for _ in range(length // len(words) + 1) for w in turns), length))
