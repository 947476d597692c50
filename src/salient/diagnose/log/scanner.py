"""Finds the few lines of a large log that contain one of many anchors.

No Python loop runs over all lines: a block is searched for all anchors at once, and lines are cut
out of it where it contains any. Speeds: benchmarks/RESULTS.md.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from .anchor_search import AnchorSearch

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
        self._search = _search_of(frozenset((*anchors, *self._around)))

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
            for anchor in self._search.present(block)
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
def _search_of(anchors: frozenset[str]) -> AnchorSearch:
    return AnchorSearch(anchors)


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
