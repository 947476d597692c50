"""Prompts of a requested length, cut from a text.

Each prompt begins with a number of its own, with reversed digits, so that no two in a row begin
alike: servers that reuse prefixes token by token would otherwise save the leading zeros.
"""

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import count, cycle, islice

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
    rotated = terms[start:] + terms[:start]

    def first(count: int) -> str:
        return " ".join(islice(cycle(rotated), count))

    def prompt_tokens(count: int) -> int:
        return count_tokens(numbered(first(count), 0)) if count_tokens else count + 1

    # the most words that fit; a word has at least one token
    return first(bisect_right(range(1, tokens + 1), tokens, key=prompt_tokens))
