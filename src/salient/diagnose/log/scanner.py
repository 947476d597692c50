"""Finds the few lines of a large log that contain one of many anchors.

A log repeats itself: most lines differ from earlier ones in their numbers only. So each block loses
its digits, is split into lines, and only lines of a new kind are searched, by one regular
expression of all anchors. Where a kind contains an anchor, the lines are cut out of the block. No
Python loop runs over all lines.

The expression is a tree of the anchors, each from a rare letter on. On 100 MB (one core of a Xeon)
it reads 91 MB/s of a server's log and 46 MB/s of a log that never repeats a line
(benchmarks/doctor.py); a plain alternation reads 3.2 and 2.6 MB/s, one `bytes.find` for each anchor
20 and 16 MB/s.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

CHUNK = 1 << 20  # bytes read at once
CARRY = 64 << 10  # bytes of an unfinished line that wait for its end
OVERLAP = 512  # bytes of an endless line that are searched again, more than the longest anchor
BACK = 4 << 10  # how far before an anchor its line may begin
LONGEST = 16 << 10  # bytes of a line that are returned; an engine's settings take 4 KiB
FIRST = 200  # lines of an anchor that are all returned
EACH = 8  # lines of an anchor returned from each later block, in addition to its last
HEAD = 256 << 10  # bytes of a stream whose lines are all context
BEFORE, AFTER = 3, 10  # lines of context around an anchor
WIDE = 2 << 10  # bytes of a line of context
KINDS = 50_000  # kinds of line remembered, none longer than LONG_KIND
LONG_KIND = 512
# Digits and the letters of hexadecimal names (request ids) do not distinguish kinds.
DIGITS = b"0123456789abcdef"
# The regular expression stops at each of the letters that its anchors are searched by, so few and
# rare letters serve all anchors. Rarest first, as counted in logs and English text; `STEP` times
# more frequent each.
RARE = b"UMCDzV\x96jJYWLEBGQXZ`|#KHRq[]FAN'TI-x_vwySPOkg(:/,umphlsrion"
STEP = 1.08
LEAST = 5  # letters of an anchor, without its digits


@dataclass(frozen=True)
class AnchorMatch:
    """A line that contains an anchor. line: its number, from 1   text: without its end"""

    anchor: str
    line: int
    text: bytes


class Scanner:
    """Finds the lines with anchors in a stream of bytes, fed piece by piece.

    hits: occurrences of each anchor   sampled: those whose lines were returned
    lines, size: line ends and bytes so far
    last_line: the last line with text
    context: the numbered lines around the anchors of `around`, and those of the stream's head, in
        their order; whoever reads them clears it
    """

    def __init__(self, anchors: Iterable[str], around: Iterable[str] = ()) -> None:
        self.hits, self.sampled = Counter[str](), Counter[str]()
        self.lines = self.size = 0
        self.last_line = b""
        self.context: list[tuple[int, bytes]] = []
        self._around = frozenset(around)
        self._owed = 0  # lines of context that the next block begins with
        self._scanned = 0  # bytes
        self._carry = b""
        self._known = set[bytes]()  # kinds of line that were searched
        self._anchors_of: dict[bytes, set[str]] = {}  # of the kinds that contain any
        self._pattern, self._owners = _compile((*anchors, *self._around))

    def feed(self, data: bytes) -> Iterator[AnchorMatch]:
        """The matches in all lines that `data` ends; a line's beginning waits for its end."""
        self.size += len(data)
        block = self._carry + data
        end = block.rfind(b"\n") + 1
        if len(block) - end <= CARRY:
            self._carry = block[end:]
            block = block[:end]
        else:  # an endless line: search it as far as it came
            self._carry = block[-OVERLAP:]
        if block:
            yield from self._scan(block)

    def close(self) -> Iterator[AnchorMatch]:
        """The matches in a last line without an end."""
        block, self._carry = self._carry, b""
        if block:
            yield from self._scan(block)

    def restart(self) -> None:
        """Continue with another file: line numbers count from 1 again."""
        self._carry = b""
        self.lines = self._owed = self._scanned = 0

    def _scan(self, block: bytes) -> Iterator[AnchorMatch]:
        places = sorted(
            (place, anchor)
            for anchor in self._anchors_in(block)
            for place in self._sample(block, anchor)
        )
        if self._around:
            self._add_context(block, [at for at, anchor in places if anchor in self._around])
        number, counted = self.lines + 1, 0
        for place, anchor in places:
            start = _line_start(block, place)
            number += block.count(b"\n", counted, start)
            counted = max(counted, start)
            yield AnchorMatch(anchor, number, block[start : _line_end(block, place)])
        self.lines += block.count(b"\n")
        self.last_line = block[-WIDE:].strip().rpartition(b"\n")[2] or self.last_line

    def _add_context(self, block: bytes, places: list[int]) -> None:
        """The lines around the places, each once."""
        end = _lines_after(block, 0, self._owed)
        if self._scanned < HEAD:
            end = max(end, block.rfind(b"\n", 0, HEAD - self._scanned) + 1)
        self._scanned += len(block)
        areas = [(0, end)] if end else []
        for place in places:
            start = max(end, _lines_before(block, place, BEFORE))
            end = max(end, _lines_after(block, place, AFTER))
            if start < end:
                areas.append((start, end))
        owed = AFTER - block.count(b"\n", places[-1]) if places else self._owed - block.count(b"\n")
        self._owed = max(0, owed)
        number, counted = self.lines + 1, 0
        for start, stop in areas:
            number += block.count(b"\n", counted, start)
            for line in block[start:stop].removesuffix(b"\n").split(b"\n"):
                self.context.append((number, line.rstrip(b"\r").rpartition(b"\r")[2][:WIDE]))
                number += 1
            counted = stop

    def _anchors_in(self, block: bytes) -> set[str]:
        """Anchors that the block may contain; those that it contains are among them."""
        kinds = set(block.translate(None, DIGITS).split(b"\n"))
        # set.intersection(dict) iterates over the dict, the smaller of the two
        repeated = kinds.intersection(self._anchors_of)
        anchors = set[str]().union(*(self._anchors_of[kind] for kind in repeated))
        new = kinds - self._known
        for kind, owners in self._search(b"\n".join(new)):
            anchors |= owners
            if len(kind) <= LONG_KIND:
                self._anchors_of.setdefault(kind, set()).update(owners)
        if len(self._known) > KINDS:
            self._known.clear()
            self._anchors_of.clear()
        self._known.update(kind for kind in new if len(kind) <= LONG_KIND)
        return anchors

    def _search(self, kinds: bytes) -> Iterator[tuple[bytes, set[str]]]:
        match = self._pattern.search(kinds)
        while match:
            start = kinds.rfind(b"\n", 0, match.start()) + 1
            end = kinds.find(b"\n", match.end())
            yield kinds[start : len(kinds) if end < 0 else end], self._owners[match[0]]
            match = self._pattern.search(kinds, match.start() + 1)

    def _sample(self, block: bytes, anchor: str) -> list[int]:
        """Places of the anchor: the first ones all, then a few of each block and its last."""
        literal = anchor.encode()
        most = max(FIRST - self.sampled[anchor], EACH)
        places: list[int] = []
        at = block.find(literal)
        while at >= 0 and len(places) < most:
            places.append(at)
            at = block.find(literal, at + len(literal))
        self.hits[anchor] += len(places)
        if at >= 0:
            self.hits[anchor] += block.count(literal, at)
            places.append(block.rfind(literal))
        self.sampled[anchor] += len(places)
        return places


@lru_cache(maxsize=8)
def _compile(anchors: tuple[str, ...]) -> tuple[re.Pattern[bytes], dict[bytes, set[str]]]:
    """The expression of all anchors, and the anchors that each of its matches stands for."""
    literals: dict[bytes, set[str]] = {}
    for anchor in anchors:
        literals.setdefault(anchor.encode().translate(None, DIGITS), set()).add(anchor)
    ends: dict[bytes, set[bytes]] = {}  # the literals by their ends, from the letter searched by on
    for letter, group in _letters(literals):
        for literal in group:
            ends.setdefault(literal[literal.index(letter) :], set()).add(literal)
    # An end that is part of another one is found together with it.
    owners = {
        end: set[str]().union(
            *(literals[one] for part in ends if part in end for one in ends[part])
        )
        for end in ends
    }
    return re.compile(_tree(b"", sorted(ends), ends)), owners


def _letters(literals: Iterable[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Letters that the literals are searched by, with theirs: the rarest for the most of them."""
    ranks = {letter: rank for rank, letter in enumerate(RARE)}
    left = set(literals)
    while left:
        shares = Counter(letter for literal in left for letter in set(literal))
        letter = min(shares, key=lambda c: (STEP ** ranks.get(c, len(RARE)) / shares[c], c))
        group = sorted(literal for literal in left if letter in literal)
        left.difference_update(group)
        yield letter, group


def _tree(head: bytes, tails: list[bytes], ends: dict[bytes, set[bytes]]) -> bytes:
    """A pattern of the tails of `head` that looks at each letter once: (?:ab(?:c|d)|x).

    Where one ends, what precedes it is compared.
    """
    rests: dict[bytes, list[bytes]] = {}
    for tail in tails:
        if tail:
            rests.setdefault(tail[:1], []).append(tail[1:])
    branches = [re.escape(first) + _tree(head + first, rests[first], ends) for first in rests]
    # A literal that ends here is taken where no longer one fits.
    branches += (
        [b"(?<=%b)" % re.escape(literal) for literal in sorted(ends[head])] if b"" in tails else []
    )
    return branches[0] if len(branches) == 1 else b"(?:" + b"|".join(branches) + b")"


def _line_start(block: bytes, place: int) -> int:
    """Progress bars start their line again with a carriage return."""
    low = max(0, place - BACK)
    ends = block.rfind(b"\n", low, place), block.rfind(b"\r", low, place)
    return max(ends) + 1 if max(ends) >= 0 else low


def _lines_before(block: bytes, place: int, count: int) -> int:
    """The start of the line that is `count` lines before that of `place`; of the next line where
    that of `place` begins too far before it."""
    low = max(0, place - BACK)
    start = block.rfind(b"\n", low, place)
    if start < 0:
        return low if low == 0 else _lines_after(block, place, 1)
    for _ in range(count):
        start = max(start, 0) and block.rfind(b"\n", low, start)
    return start + 1


def _lines_after(block: bytes, place: int, count: int) -> int:
    """The end of `count` lines from the one of `place` on."""
    end = place
    for _ in range(count):
        at = block.find(b"\n", end)
        if at < 0:
            return len(block)
        end = at + 1
    return end


def _line_end(block: bytes, place: int) -> int:
    high = min(len(block), place + LONGEST)
    ends = [end for mark in b"\n\r" if (end := block.find(mark, place, high)) >= 0]
    return min(ends, default=high)
