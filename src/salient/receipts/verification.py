"""A receipt measured again: to the last digit on a like machine, within TOLERANCE on others."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from salient.core.records import is_object, is_sequence, to_json

from .receipt_record import Receipt

TOLERANCE = 1e-3  # relative, of figures from another processor, thread count or library
FLOOR_TIMES = 10.0  # the noise floor's KL may be lost in any figure
LISTED = 10


@dataclass(frozen=True)
class FigureDifference:
    """A figure that is not the receipt's: its path, the receipt's value, the new one."""

    figure: str
    receipt: float | None
    measured: float | None


@dataclass(frozen=True)
class Verification:
    """like: whether the engine records are equal   compared: figures"""

    like: bool
    compared: int
    differences: tuple[FigureDifference, ...]
    engine: dict[str, tuple[str, str]]

    @property
    def passed(self) -> bool:
        return not self.differences


def compare_receipts(before: Receipt, after: Receipt) -> Verification:
    """Compare all figures of two receipts of the same checkpoint, reference and panel."""
    like = before.engine == after.engine
    engines = (dict(_leaves(to_json(receipt.engine))) for receipt in (before, after))
    old, new = engines
    changed = {k: (str(old.get(k)), str(new.get(k))) for k in old | new if old.get(k) != new.get(k)}
    figures, again = (dict(_leaves(_figures(receipt))) for receipt in (before, after))
    floor = FLOOR_TIMES * max(before.noise.kl_shift, before.noise.kl, before.noise.log_perplexity)
    differences = tuple(
        FigureDifference(path, _number(figures.get(path)), _number(again.get(path)))
        for path in figures | again
        if not _same(path, figures.get(path), again.get(path), None if like else floor)
    )
    return Verification(like, len(figures), differences, changed)


def _figures(receipt: Receipt) -> object:
    part = {"all": receipt.figures, **receipt.strata, "documents": receipt.documents}
    return to_json(part)


def _leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    if is_object(value):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}".lstrip("."))
    elif is_sequence(value):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, value


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _same(path: str, before: object, after: object, floor: float | None) -> bool:
    """Whether two figures agree: exactly where `floor` is None, else within the tolerance."""
    if floor is None or before == after:
        return before == after
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return False
    if path.endswith((".positions", ".predicted")) or not math.isfinite(before + after):
        return False
    if ".same." in path:  # near ties of a document
        return abs(before - after) <= 1 + TOLERANCE * abs(before)
    if path.startswith("documents."):
        return abs(before - after) <= 0.05 + TOLERANCE * abs(before)
    return abs(before - after) <= TOLERANCE * max(abs(before), floor / TOLERANCE)
