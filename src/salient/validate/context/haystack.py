"""Facts hidden in a long text, and one question for each.

After Kamradt's "needle in a haystack" (2023), with ten needles a length instead of one, and exact
digits instead of a judge. The question repeats the wording of the fact, so that a small model
without instruction tuning can answer it: it measures recall over distance, not understanding. Facts
differ in subject and place; of ten telephone numbers, SmolLM2-135M mixed up a fifth in 512 tokens.

One text serves several lengths: the text of 512 tokens is the beginning of the one of 2048. An
engine that caches prefixes reads the whole once, and a question costs its own few tokens.

Imports no torch.
"""

import random
import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path

Encode = Callable[[str], list[int]]  # a text's tokens, without special ones

DEPTHS = tuple(n / 100 for n in range(5, 100, 10))  # of the text before the question
CODES = (3000, 10_000)  # four digits, none of them a year: the first guess of a model that is lost
ANSWER_TOKENS = 8  # a code of single digits, a space before it and what comes after
_FACTS = tomllib.loads((Path(__file__).parent / "data" / "facts.toml").read_text(encoding="utf-8"))
SUBJECTS: list[str] = _FACTS["subjects"]
PLACES: list[str] = _FACTS["places"]


@dataclass(frozen=True)
class RetrievalProbe:
    """One question after a text: `prompt` and its answer fill at most `length` tokens."""

    length: int
    depth: float
    code: str
    prompt: list[int]


@dataclass(frozen=True)
class _Fact:
    length: int
    depth: float
    code: str
    tokens: list[int]
    question: list[int]


def make_probes(
    encode: Encode, filler: Sequence[int], begin: Sequence[int], lengths: Sequence[int], seed: int
) -> list[RetrievalProbe]:
    """The probes of one text, the shortest lengths first: at each of DEPTHS, or as many of them as
    leave half of the length to the filler.

    filler: tokens between the facts, repeated from a position that the seed chooses
    begin: tokens before the text, such as the one that begins every text
    """
    chance = random.Random(seed)
    # 24 subjects and 25 places: no pair comes twice
    subjects, places = (cycle(chance.sample(each, len(each))) for each in (SUBJECTS, PLACES))
    placed: list[tuple[int, _Fact]] = []
    rooms: dict[int, int] = {}  # length -> tokens of its text, without question and answer
    for length in sorted(lengths):
        facts = [
            _fact(encode, f"{next(subjects)} {next(places)}", depth, length, chance)
            for depth in DEPTHS
        ]
        rooms[length] = length - ANSWER_TOKENS - max(len(f.question) for f in facts)
        for fact in _that_fit(facts, rooms[length]):
            size = len(fact.tokens)
            at = len(begin) + round(fact.depth * (rooms[length] - len(begin) - size))
            at = _clear(at, size, placed, rooms)
            if at + size <= rooms[length]:
                placed.append((at, fact))
    text = _written(placed, filler, begin, max(0, *rooms.values()), chance)
    ordered = sorted(placed, key=lambda each: (each[1].length, each[0]))
    return [
        RetrievalProbe(f.length, f.depth, f.code, text[: rooms[f.length]] + f.question)
        for _, f in ordered
    ]


def is_right(answer: str, code: str) -> bool:
    """Whether the answer's first number is the code."""
    number = re.search(r"\d+", answer, re.ASCII)
    return number is not None and number[0] == code


def _fact(encode: Encode, what: str, depth: float, length: int, chance: random.Random) -> _Fact:
    code = str(chance.randrange(*CODES))
    tokens = encode(f"\n\n{what} is {code}.\n\n")
    return _Fact(length, depth, code, tokens, encode(f"\n\n{what} is"))


def _that_fit(facts: list[_Fact], room: int) -> list[_Fact]:
    """As many as take half of the room, evenly from all depths."""
    most = room // 2 // max(len(fact.tokens) for fact in facts)
    if most >= len(facts):
        return facts
    return [facts[(2 * n + 1) * len(facts) // (2 * most)] for n in range(most)]


def _clear(at: int, size: int, placed: list[tuple[int, _Fact]], rooms: dict[int, int]) -> int:
    """The first position from `at` on where `size` tokens overlap no fact and no text's end."""
    taken = [(start, start + len(fact.tokens)) for start, fact in placed]
    for start, end in sorted(taken + [(room, room) for room in rooms.values()]):
        if (at < end and start < at + size) or at < start == end < at + size:
            at = end
    return at


def _written(
    placed: list[tuple[int, _Fact]],
    filler: Sequence[int],
    begin: Sequence[int],
    size: int,
    chance: random.Random,
) -> list[int]:
    """A text of `size` tokens with each fact at its position."""
    first = chance.randrange(len(filler))
    more = islice(cycle(chain(filler[first:], filler[:first])), size)
    text = list(begin)
    for at, fact in sorted(placed, key=lambda each: each[0]):
        text += islice(more, max(0, at - len(text)))
        text += fact.tokens
    return [*text, *more][:size]
