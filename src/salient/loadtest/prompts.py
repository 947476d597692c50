"""Prompts of a requested length, cut from a text.

Each prompt begins with a number of its own, with reversed digits, so that no two in a row begin
alike: servers that reuse prefixes token by token would otherwise save the leading zeros.
"""

import random
from collections.abc import Callable, Iterator
from itertools import count, islice

from salient.core.corpus import builtin
from salient.core.errors import RequestError

from .plan import LoadPlan

TokenCounter = Callable[[str], int]
EXCERPTS = 16  # pieces of text that the numbered prompts share
DIGITS = 10


def numbered_prompts(plan: LoadPlan, count_tokens: TokenCounter | None = None) -> Iterator[str]:
    """The plan's prompts, without end. Raises RequestError for a text without words."""
    excerpts = cut_excerpts(plan.text, plan.prompt_tokens, plan.seed, count_tokens)
    numbers = count(plan.seed * 1_000_003)
    return (numbered(excerpts[number % len(excerpts)], number) for number in numbers)


def numbered(excerpt: str, number: int) -> str:
    """The prompt with this number, of which the last ten digits count."""
    return f"{number % 10**DIGITS:0{DIGITS}d}"[::-1] + " " + excerpt


def cut_excerpts(
    text: str, tokens: int, seed: int, count_tokens: TokenCounter | None = None
) -> tuple[str, ...]:
    """Pieces of `text` that make prompts of about `tokens` tokens once they are numbered.

    With `count_tokens` no prompt is longer than requested, unless one word is. Without it a word
    counts as a token, which makes prompts longer than requested; results report the server's own
    count.

    Raises RequestError for a text without words.
    """
    terms = (text or "\n".join(document.text for document in builtin("heldout"))).split()
    if not terms:
        raise RequestError("The text for prompts has no words. Use one with a few pages.")
    generator = random.Random(seed)
    starts = [generator.randrange(len(terms)) for _ in range(EXCERPTS)]
    return tuple(_excerpt(terms, start, tokens, count_tokens) for start in starts)


def _excerpt(terms: list[str], start: int, tokens: int, count_tokens: TokenCounter | None) -> str:
    if count_tokens is None:
        return _join_terms(terms, start, tokens - 1)
    # bisection for the most words that fit; a word has at least one token
    low, high = 0, tokens
    while low < high:
        middle = (low + high + 1) // 2
        fits = count_tokens(numbered(_join_terms(terms, start, middle), 0)) <= tokens
        low, high = (middle, high) if fits else (low, middle - 1)
    return _join_terms(terms, start, low)


def _join_terms(terms: list[str], start: int, length: int) -> str:
    """`length` terms from `start` on, cyclically."""
    rotated = terms[start:] + terms[:start]
    rounds = length // len(terms) + 1
    return " ".join(islice((term for _ in range(rounds) for term in rotated), length))
