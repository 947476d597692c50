"""A grid of counts of both models: rows and columns are what was varied."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from salient.validate.report.figures import number

MANY = 6  # columns; from here on it takes the width of the page


@dataclass(frozen=True)
class Square:
    """A cell: shares in percent, and the counts in words; lost: what the checkpoint has less"""

    reference: float
    checkpoint: float
    figure: str
    lost: int
    words: str


@dataclass(frozen=True)
class HeatGrid:
    """squares[row][column]; None where nothing was measured."""

    title: str
    unit: str
    corner: str
    columns: list[str]
    rows: list[tuple[str, list[Square | None]]]
    kind: str = "grid"
    wide: bool = False

    @property
    def empty(self) -> bool:
        """Nothing was measured."""
        return not any(square for _, squares in self.rows for square in squares)


def grid(
    title: str, unit: str, corner: str, measured: Sequence[dict[str, Any]], across: str, down: str
) -> HeatGrid:
    """measured: dicts with a value for `across` and `down`, "count", "reference", "quantized"."""
    found = {(number(m.get(down)), number(m.get(across))): _square(m) for m in measured}
    downs = sorted({row for row, _ in found if row is not None})[:40]
    acrosses = sorted({column for _, column in found if column is not None})[:40]
    rows = [(f"{100 * row:.0f}%", [found.get((row, c)) for c in acrosses]) for row in downs]
    names = [f"{c:,.0f}" for c in acrosses]
    return HeatGrid(title, unit, corner, names, rows, wide=len(names) > MANY)


def _square(measured: dict[str, Any]) -> Square | None:
    count, before, after = (number(measured.get(k)) for k in ("count", "reference", "quantized"))
    if not count or count < 0 or before is None or after is None:
        return None
    shares = [round(min(max(100 * v / count, 0), 100), 2) for v in (before, after)]
    lost = max(0, round(before - after))
    words = f"reference {before:.0f}, checkpoint {after:.0f} of {count:.0f}"
    return Square(shares[0], shares[1], f"{after:.0f}/{count:.0f}", lost, words)
