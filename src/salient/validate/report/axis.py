"""Axes of charts: places of values in percent of the length, and round ticks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .text_format import Form, finite

LARGEST = 1e100  # values beyond are drawn there: differences of larger ones overflow
WIDE = 100.0  # largest over smallest value: from here on a linear axis hides the small ones
ROUND = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Tick:
    """A labelled place. at: percent from the start of the axis; anchor: of the label"""

    at: float
    label: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, linear or logarithmic, with ticks at `steps`."""

    low: float
    high: float
    steps: tuple[float, ...] = ()
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The place of `value` in percent; values beyond an end are at that end."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(100 * share, 2)

    def down(self, value: float) -> float:
        """The place of `value` from the top of a vertical axis."""
        return round(100 - self.at(value), 2)

    def ticks(self, form: Form) -> list[Tick]:
        """Ticks with labels; a long label at an end is anchored inwards."""
        return [Tick(self.at(s), form(s), _anchor(self.at(s), form(s))) for s in self.steps]


def _anchor(at: float, label: str) -> str:
    if len(label) < 5:
        return "middle"
    return "start" if at < 4 else "end" if at > 96 else "middle"


def drawable(values: Iterable[float | None]) -> list[float]:
    """The finite ones of `values`, limited to LARGEST and its inverse."""
    clipped = [min(max(v, -LARGEST), LARGEST) for v in map(finite, values) if v is not None]
    return [v if abs(v) * LARGEST >= 1 else 0.0 for v in clipped]


def linear(values: Iterable[float | None], *, zero: bool = True, most: float | None = None) -> Axis:
    """An axis of round steps around `values`.

    zero: it includes 0   most: the largest end, such as 1 for shares
    """
    numbers = drawable(values)
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = low - 0.5 * abs(low) * (not zero), high + (0.5 * abs(high) or 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(s * power for s in ROUND if s * power >= (high - low) / 4 * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    steps = [round(n * step, 15) if step > 1e-9 else n * step for n in range(first, last + 1)]
    if most is not None and steps[-1] > most > steps[0]:
        steps = [*(s for s in steps if s < most), most]
    return Axis(steps[0], steps[-1], tuple(steps))


def logarithmic(values: Sequence[float]) -> Axis:
    """An axis of powers of ten around positive values."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    last = max(last, first + 1)
    spacing = math.ceil((last - first) / 5)
    steps = tuple(10.0**n for n in range(first, last + 1) if (n - first) % spacing == 0)
    return Axis(10.0**first, 10.0**last, steps, logarithmic=True)


def fitting(values: Iterable[float | None]) -> Axis:
    """A linear axis from 0; a logarithmic one where that would hide most of the values."""
    numbers = drawable(values)
    wide = len(numbers) > 1 and min(numbers) > 0 and max(numbers) / min(numbers) > WIDE
    return logarithmic(numbers) if wide else linear(numbers)


def at_values(values: Iterable[float | None]) -> Axis:
    """An axis with ticks at the values themselves; logarithmic for the likes of 1, 2, 4, 8."""
    numbers = sorted(set(drawable(values)))
    if len(numbers) < 2:
        middle = numbers[0] if numbers else 0.0
        room = max(1.0, abs(middle))
        return Axis(middle - room, middle + room, tuple(numbers))
    growing = numbers[0] > 0 and numbers[-1] / numbers[0] >= 8
    return Axis(numbers[0], numbers[-1], tuple(numbers), logarithmic=growing)
