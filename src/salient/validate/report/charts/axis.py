"""From values to places along an axis, in percent of its length, and its ticks."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from salient.validate.report.figures import Form, number

LARGEST = 1e100  # what is farther out is drawn there: differences of more overflow
WIDE = 100.0  # times from the smallest to the largest value: a linear axis hides the small ones
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Tick:
    """A labelled place. at: percent from the start of the axis; side: how its label is anchored"""

    at: float
    label: str
    side: str = "middle"


@dataclass(frozen=True)
class Level:
    """A value that figures are held against. asked: by the policy"""

    value: float
    words: str
    asked: bool = True


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, linear or logarithmic; `steps` are the values of its ticks."""

    low: float
    high: float
    steps: tuple[float, ...]
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The place of `value` in percent, 0 to 100; what is beyond an end stands at that end."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return round(100 * part, 2)

    def told(self, unit: str) -> str:
        """`unit`, and what else a reader has to know of the axis."""
        return f"{unit}; logarithmic" if self.logarithmic else unit

    def ticks(self, form: Form) -> list[Tick]:
        """Ticks with their labels; a long one at an end is anchored inwards."""
        found = [(self.at(step), form(step)) for step in self.steps]
        return [Tick(at, label, _side(at, label)) for at, label in found]


def _side(at: float, label: str) -> str:
    if len(label) < 5:
        return "middle"
    return "start" if at < 4 else "end" if at > 96 else "middle"


def finite(values: Iterable[object]) -> list[float]:
    """Those of `values` that are numbers; none is farther out than LARGEST, or nearer 0 than its
    inverse."""
    found = [min(max(v, -LARGEST), LARGEST) for v in map(number, values) if v is not None]
    return [v if abs(v) * LARGEST >= 1 else 0.0 for v in found]


def linear(values: Sequence[object], *, zero: bool = True, most: float | None = None) -> Axis:
    """An axis of round steps that holds `values`.

    zero: it starts at 0 (or below)   most: an end that it does not pass, such as 1 for shares
    """
    found = finite(values)
    low, high = min(found, default=0.0), max(found, default=0.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = low - 0.5 * abs(low) * (not zero), high + (0.5 * abs(high) or 1.0)
    step = _step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    steps = [round(n * step, 15) if step > 1e-9 else n * step for n in range(first, last + 1)]
    if most is not None and steps[-1] > most > steps[0]:
        steps = [*(s for s in steps if s < most), most]
    return Axis(steps[0], steps[-1], tuple(steps))


def tight(values: Sequence[object]) -> Axis:
    """An axis that ends where the values do, with its round steps inside."""
    found = finite(values)
    around = linear(found, zero=False)
    if len(set(found)) < 2:
        return around
    low, high = min(found), max(found)
    return Axis(low, high, tuple(step for step in around.steps if low <= step <= high))


def _step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(s * power for s in _STEPS if s * power >= rough * (1 - 1e-9))


def logarithmic(values: Sequence[object]) -> Axis:
    """An axis of powers of ten around the positive ones of `values`."""
    found = [v for v in finite(values) if v > 0] or [1.0]
    first, last = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    last = max(last, first + 1)
    every = math.ceil((last - first) / 5)
    steps = [10.0**n for n in range(first, last + 1) if (n - first) % every == 0]
    return Axis(10.0**first, 10.0**last, tuple(steps), logarithmic=True)


def fitting(values: Sequence[object]) -> Axis:
    """A linear axis from 0; a logarithmic one where that would hide most of the values."""
    found = finite(values)
    wide = len(found) > 1 and min(found) > 0 and max(found) / min(found) > WIDE
    return logarithmic(found) if wide else linear(found)


def placed(values: Sequence[float], form: Form) -> Axis:
    """An axis whose ticks are the values themselves, such as powers of two: equally far apart
    where each is about a constant times the one before."""
    found = sorted(set(finite(values)))
    if len(found) < 2:
        middle = found[0] if found else 0.0
        room = max(1.0, abs(middle))
        return Axis(middle - room, middle + room, tuple(found))
    if found[0] > 0 and found[-1] / found[0] >= 8:
        return Axis(found[0], found[-1], tuple(found), logarithmic=True)
    return Axis(found[0], found[-1], tuple(found))
