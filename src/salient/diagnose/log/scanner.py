"""Gigabytes of log, cut down to the few lines that hold one of given anchors.

A log repeats itself: most lines differ from earlier ones in their numbers alone. So each block
loses its digits first, is split into lines, and only the kinds of line that were not seen before
are searched, by one regular expression of all anchors. Where a kind holds an anchor, the lines
themselves are cut out of the block. Python never walks over all lines. What a line means is the
business of `facts` and `signatures`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

CHUNK = 1 << 20  # bytes read at once
CARRY = 64 << 10  # bytes of an unfinished line that wait for its end
OVERLAP = 512  # bytes kept of an endless line, more than the longest anchor
BACK = 4 << 10  # how far before an anchor its line may begin
LONGEST = 16 << 10  # bytes of a line that are cut out at most: an engine's settings take 4 KiB
FIRST = 200  # lines of an anchor that are all looked at
EACH = 8  # lines of an anchor looked at in each later block, beside its last
KINDS = 50_000  # kinds of line remembered, none longer than LONG_KIND
LONG_KIND = 512
# Digits and the letters of hexadecimal names (request ids) do not tell one kind from another.
DIGITS = b"0123456789abcdef"
# The regular expression looks closer wherever one of its first letters stands, so each anchor is
# searched from its rarest letter on. Rarest first, as counted in logs and English text.
RARE = b"UMCDzV\x96jJYWLEBGQXZ`|#KHRq[]FAN'TI-x_vwySPOkg(:/,umphlsrion"
LEAST = 5  # letters of an anchor that are searched at least


@dataclass(frozen=True)
class AnchorMatch:
    """A line that holds an anchor. line: its number, from 1   text: without its end"""

    anchor: str
    line: int
    text: bytes


@dataclass
class Scanner:
    """Finds the lines with anchors in a stream of bytes, fed piece by piece.

    seen: how often each anchor was met, counted even where its line was not looked at
    lines, size: line ends and bytes fed so far
    """

    anchors: Iterable[str]
    seen: dict[str, int] = field(default_factory=dict)
    lines: int = 0
    size: int = 0
    _carry: bytes = b""
    _looked: dict[str, int] = field(default_factory=dict)
    _known: set[bytes] = field(default_factory=set)
    _telling: dict[bytes, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._any, self._owners = _search_words(tuple(self.anchors))

    def feed(self, data: bytes) -> Iterator[AnchorMatch]:
        """The hits of all lines that `data` ends; a line's beginning waits for its end."""
        self.size += len(data)
        block = self._carry + data
        end = block.rfind(b"\n") + 1
        if len(block) - end <= CARRY:
            self._carry = block[end:]
            block = block[:end]
        else:  # an endless line: look at it as far as it came
            self._carry = block[-OVERLAP:]
        if block:
            yield from self._scan(block)

    def close(self) -> Iterator[AnchorMatch]:
        """The hits of a last line without an end."""
        block, self._carry = self._carry, b""
        if block:
            yield from self._scan(block)

    def restart(self) -> None:
        """The stream began anew: a rotated file. Line numbers count from 1 again."""
        self._carry = b""
        self.lines = 0

    def looked(self, anchor: str) -> int:
        """How many lines of the anchor were given out."""
        return self._looked.get(anchor, 0)

    def _scan(self, block: bytes) -> Iterator[AnchorMatch]:
        places = sorted(
            (place, anchor)
            for anchor in self._present(block)
            for place in self._places(block, anchor)
        )
        number, counted = self.lines + 1, 0
        for place, anchor in places:
            start = _line_start(block, place)
            number += block.count(b"\n", counted, start)
            counted = max(counted, start)
            yield AnchorMatch(anchor, number, block[start : _line_end(block, place)])
        self.lines += block.count(b"\n")

    def _present(self, block: bytes) -> set[str]:
        """Anchors that may stand in the block, those that do among them."""
        kinds = set(_thin(block).split(b"\n"))
        # set.intersection(dict) walks over the dict, the smaller of the two
        found = set().union(*(self._telling[k] for k in kinds.intersection(self._telling)))
        new = kinds - self._known
        for kind, names in self._search(b"\n".join(new)):
            found |= names
            if len(kind) <= LONG_KIND:
                self._telling.setdefault(kind, set()).update(names)
        if len(self._known) > KINDS:
            self._known.clear()
            self._telling.clear()
        self._known.update(kind for kind in new if len(kind) <= LONG_KIND)
        return found

    def _search(self, kinds: bytes) -> Iterator[tuple[bytes, set[str]]]:
        found = self._any.search(kinds)
        while found:
            start = kinds.rfind(b"\n", 0, found.start()) + 1
            end = kinds.find(b"\n", found.end())
            yield kinds[start : len(kinds) if end < 0 else end], self._owners[found[0]]
            found = self._any.search(kinds, found.start() + 1)

    def _places(self, block: bytes, anchor: str) -> list[int]:
        """Where to look: everywhere at first, later at a few places of each block and its last."""
        word = anchor.encode()
        most = max(FIRST - self.looked(anchor), EACH)
        places: list[int] = []
        at = block.find(word)
        while at >= 0 and len(places) < most:
            places.append(at)
            at = block.find(word, at + len(word))
        self.seen[anchor] = self.seen.get(anchor, 0) + len(places)
        if at >= 0:
            self.seen[anchor] += block.count(word, at)
            places.append(block.rfind(word))
        self._looked[anchor] = self.looked(anchor) + len(places)
        return places


@lru_cache(maxsize=8)
def _search_words(anchors: tuple[str, ...]) -> tuple[re.Pattern[bytes], dict[bytes, set[str]]]:
    """What is searched for all anchors at once, and the anchors that each found word stands for."""
    thin: dict[bytes, set[str]] = {}
    for anchor in anchors:
        thin.setdefault(_from_rarest(_thin(anchor.encode())), set()).add(anchor)
    # A word that is part of another one is found together with it.
    owners = {
        word: set().union(*(names for part, names in thin.items() if part in word)) for word in thin
    }
    return re.compile(_tree(sorted(thin))), owners


def _thin(text: bytes) -> bytes:
    return text.translate(None, DIGITS)


def _from_rarest(word: bytes) -> bytes:
    """The word from its rarest letter on."""
    before = word[: len(word) - LEAST + 1]
    return word[next((at for at in map(before.find, RARE) if at >= 0), 0) :]


def _tree(words: list[bytes]) -> bytes:
    """A pattern of all words that looks at each letter once: (?:ab(?:c|d)|x)."""
    heads: dict[bytes, list[bytes]] = {}
    for word in words:
        if word:
            heads.setdefault(word[:1], []).append(word[1:])
    branches = [
        re.escape(head) + (re.escape(rests[0]) if len(rests) == 1 else _tree(rests))
        for head, rests in heads.items()
    ]
    # A word that ends here is taken where no longer one fits.
    branches += [b""] if b"" in words else []
    return branches[0] if len(branches) == 1 else b"(?:" + b"|".join(branches) + b")"


def _line_start(block: bytes, place: int) -> int:
    """Progress bars begin their line anew with a carriage return."""
    low = max(0, place - BACK)
    ends = block.rfind(b"\n", low, place), block.rfind(b"\r", low, place)
    return max(ends) + 1 if max(ends) >= 0 else low


def _line_end(block: bytes, place: int) -> int:
    high = min(len(block), place + LONGEST)
    ends = [end for mark in b"\n\r" if (end := block.find(mark, place, high)) >= 0]
    return min(ends, default=high)
