"""Figures of linears and folds that rounding cannot explain.

Two bounds each: what the grid can express, in steps, and what the other linears of the kind in the
same checkpoint have. A linear is damaged where both are exceeded, because effort and tool move
errors in all linears alike. With fewer than FEWEST of a kind all linears are its population.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from .result import DamagedTensor
from .rounding_figures import FoldFigures, LinearFigures

FEWEST = 4  # of a kind, to know what is usual
SPREADS = 6  # times 1.48 x the median deviation: six standard deviations
SQUARE, TIMES = 0.45, 2.5  # steps^2, and times the median: a zero that is off by one adds 1
LINE, LINE_TIMES = 12.0, 2.0  # of one row or column; zeroed codes are 8 steps off: 64 and more
OFFSET = 0.2  # steps; a zero that is off by one shows as 1, rounding as 0.004 (over a linear)
SIZE, SIZE_LAW = 0.006, 0.003  # of the logarithm: a factor of 0.6 %; beyond D / 2
MIDDLE = 0.004  # of the logarithm of scales that norms absorb, stored with 8 bits
PAIR = 0.010  # of least squares over thousands of weights
PAIR_SPREADS = 4  # `room` grows with a pair's error, which makes the tails
LEAST_SPREAD = 1e-3  # of the middles of scales, where few pairs agree by chance


@dataclass(frozen=True)
class Population:
    """The usual value of a figure, and how far others are from it."""

    middle: float
    spread: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> "Population":
        middle = median(values)
        spread = 1.48 * median([abs(value - middle) for value in values])
        return Population(middle, spread, len(values))

    def apart(self, value: float, least: float, spreads: float = SPREADS) -> bool:
        """Whether `value` is farther from the middle than `least` and `spreads` spreads."""
        return abs(value - self.middle) > max(least, spreads * self.spread)


def damaged_linears(linears: Sequence[LinearFigures]) -> list[DamagedTensor]:
    """The linears that are not roundings."""
    damaged: list[DamagedTensor] = []
    for kind in dict.fromkeys(each.kind for each in linears):
        alike = [each for each in linears if each.kind == kind]
        others = alike if len(alike) >= FEWEST else list(linears)
        square = Population.of([each.square for each in others])
        size = Population.of([each.size for each in others])
        for each in alike:
            if reason := _fault(each, others, square, size):
                damaged.append(DamagedTensor(each.name, reason))
    return damaged


def _fault(
    each: LinearFigures, others: Sequence[LinearFigures], square: Population, size: Population
) -> str:
    """Why a linear is no rounding of the reference's, or ''."""
    rest = [other for other in others if other is not each]
    if each.square > max(SQUARE, TIMES * square.middle):
        zeros = ", all in one direction, as with wrong zero points" * (abs(each.offset) > OFFSET)
        return (
            f"its weights are {each.square**0.5:.2g} steps of its grid from the reference's"
            f"{zeros}; the others of its kind {square.middle**0.5:.2g}"
        )
    if abs(each.offset) > OFFSET:
        return f"its weights are {each.offset:+.2g} steps from the reference's in the mean"
    for line in ("row", "column"):
        value = getattr(each, line)
        usual = max([getattr(other, line) for other in rest], default=0.0)
        if value > LINE and (value > LINE_TIMES * usual or value > LINE_TIMES * LINE):
            return f"a {line} of it is {value**0.5:.2g} steps of its grid from the reference's"
    beyond = abs(each.size) > each.relative / 2 + SIZE_LAW
    if beyond and (size.count < FEWEST or size.apart(each.size, SIZE)):
        return (
            f"its weights are {each.size:+.2%} larger than the reference's with the fold undone; "
            f"the others of its kind {size.middle:+.2%}"
        )
    return ""


def damaged_folds(folds: Sequence[FoldFigures], linears: set[str]) -> list[DamagedTensor]:
    """Norms, and linears in pairs, whose scales do not fit; `linears`: those known as damaged."""
    damaged: list[DamagedTensor] = []
    norms = [each for each in folds if each.product is None]
    if norms:
        middle = Population.of([each.middle for each in norms])
        damaged += [
            DamagedTensor(
                f"{each.absorber}.weight",
                f"it is {middle.middle - each.middle:+.2%} larger than its readers' fold has it",
            )
            for each in norms
            if middle.apart(each.middle, MIDDLE)
        ]
    broken = {each.name for each in damaged}
    behind = {r for each in norms if f"{each.absorber}.weight" in broken for r in each.readers}
    pairs = [each for each in folds if each.product is not None]
    for kind in dict.fromkeys(each.kind for each in pairs):
        alike = [each for each in pairs if each.kind == kind]
        product = _population(alike, lambda each: each.product or 0.0)
        usual = median([each.doubt for each in alike])
        sides = [
            _population(alike, lambda each: each.middle),
            _population(alike, lambda each: each.reader_middle or 0.0),
        ]
        for each in alike:
            value = each.product or 0.0
            room = PAIR + 2 * abs(each.doubt - usual)  # a coarser pair is less exact
            if not product.apart(value, room, PAIR_SPREADS) or (linears | behind) & {
                each.absorber,
                *each.readers,
            }:
                continue
            if ("*" in kind or len(alike) < FEWEST) and abs(value) <= each.doubt + PAIR:
                continue
            names = [each.absorber, *each.readers]
            chosen = names[:1] if _by_absorber(each, value - product.middle, *sides) else names[1:]
            reason = (
                f"the scales of {names[0]} and {', '.join(names[1:])} do not cancel: their "
                f"product is {value:+.2%} off, in the others of the kind {product.middle:+.2%}"
            )
            damaged += [DamagedTensor(name, reason) for name in chosen]
    return damaged


def _by_absorber(each: FoldFigures, shift: float, absorbed: Population, read: Population) -> bool:
    """Whether a pair whose product is off by `shift` has it from its absorber.

    That moves the absorber's middle by -shift, or the reader's by shift: the likelier of both.
    """
    own, other = each.middle - absorbed.middle, (each.reader_middle or 0.0) - read.middle
    first, second = (max(side.spread, LEAST_SPREAD) for side in (absorbed, read))
    by_absorber = ((own + shift) / first) ** 2 + (other / second) ** 2
    by_reader = (own / first) ** 2 + ((other - shift) / second) ** 2
    return by_absorber <= by_reader


def _population(
    figures: Iterable[FoldFigures], value: Callable[[FoldFigures], float]
) -> Population:
    return Population.of([value(each) for each in figures])
