"""Which of many literal texts a block of bytes contains, at a cost that hardly grows with them.

Every anchor is searched by one of its letters: few and rare letters serve all anchors. Where one of
these stands in the block, tables of the bytes next to it tell which anchors may stand there; what
passes is compared.
"""

from collections.abc import Iterable

import numpy as np

# Rarest first, as counted in logs and English text; digits and other letters are more frequent.
RARE = b"UMCDzV\x96jJYWLEBGQXZ`|#KHRq[]FAN'TI-x_vwySPOkg(:/,umphlsrion"
GROUPS = 64  # of the anchors of a letter: bits of an entry of a table
OFFSETS = (1, -1, 2, -2, 3, -3, 4, -4)  # of the bytes that tables compare
MAX_CASES = 50_000  # neighbourhoods remembered
MARGIN = bytes(max(OFFSETS))
_Case = tuple[str, bytes, int]  # an anchor, as bytes, and the place of its letter


class AnchorSearch:
    """Finds the anchors in a block."""

    def __init__(self, anchors: Iterable[str]) -> None:
        literals = {anchor: anchor.encode() for anchor in sorted(anchors)}
        ranks = _letters(literals.values())
        numbers = {letter: number for number, letter in enumerate(ranks, start=1)}
        self._numbers = bytes(numbers.get(byte, 0) for byte in range(256))
        self._tables = np.zeros((len(OFFSETS), (len(numbers) + 1) * 256), np.uint64)
        self._anchors: dict[int, list[_Case]] = {letter: [] for letter in ranks}
        self._cases: dict[bytes, list[_Case]] = {}  # by a letter and its neighbours
        for anchor, literal in literals.items():
            place = min(range(len(literal)), key=lambda at: ranks.get(literal[at], len(RARE) + 1))
            cases = self._anchors[literal[place]]
            group = np.uint64(1 << len(cases) % GROUPS)
            cases.append((anchor, literal, place))
            for table, offset in zip(self._tables, OFFSETS, strict=True):
                at = place + offset
                row = table[numbers[literal[place]] * 256 :][:256]
                row[literal[at] if 0 <= at < len(literal) else slice(None)] |= group

    def present(self, block: bytes) -> set[str]:
        """The anchors that stand in the block."""
        padded = MARGIN + block + MARGIN
        text = np.frombuffer(padded, np.uint8)
        numbers = np.frombuffer(padded.translate(self._numbers), np.uint8)
        places = np.flatnonzero(numbers)
        rows = numbers.take(places).astype(np.intp) * 256
        groups = np.full(len(places), ~np.uint64(0))
        for table, offset in zip(self._tables, OFFSETS, strict=True):
            groups &= table.take(rows + text.take(places + offset))
            passed = np.flatnonzero(groups)
            places, rows, groups = places.take(passed), rows.take(passed), groups.take(passed)
        matches, known = set[str](), dict[bytes, list[_Case]]()
        for place in places.tolist():
            key = padded[place - len(MARGIN) : place + len(MARGIN) + 1]
            cases = known.get(key)
            if cases is None:
                cases = known[key] = self._possible(key, padded[place])
            for case in cases:  # the anchors that no earlier place has
                if padded.startswith(case[1], place - case[2]):
                    matches.add(case[0])
                    known[key] = [one for one in cases if one[0] not in matches]
        return matches

    def _possible(self, key: bytes, letter: int) -> list[_Case]:
        """The anchors that may stand where the letter has these neighbours."""
        if key not in self._cases:
            if len(self._cases) >= MAX_CASES:
                self._cases.clear()
            middle = len(MARGIN)
            self._cases[key] = [
                (anchor, literal, place)
                for anchor, literal, place in self._anchors[letter]
                if all(
                    literal[place + offset] == key[middle + offset]
                    for offset in OFFSETS
                    if 0 <= place + offset < len(literal)
                )
            ]
        return self._cases[key]


def _letters(literals: Iterable[bytes]) -> dict[int, int]:
    """Letters of which every literal has one, with their ranks; frequent ones only if needed."""
    ranks = {letter: rank for rank, letter in enumerate(RARE)}
    sets = [set(literal) for literal in literals]
    chosen = set[int]().union(*sets)
    for letter in sorted(chosen, key=lambda c: (ranks.get(c, len(RARE)), c), reverse=True):
        if all(chosen & one - {letter} for one in sets):
            chosen.discard(letter)
    return {letter: ranks.get(letter, len(RARE)) for letter in chosen}
