"""Spend bits where the end loss says they buy most: a knapsack over sets of linears.

Each set (linears that engines fuse, so that they have one format) takes one of its choices; the sum
of their bits is bounded, the sum of their damages least. Rounding errors of different linears are
taken as independent, so that the damages add up (Malinovskii et al. 2024, "HIGGS", section 4).

The choices on the lower convex hull of a set are taken in the order of damage per bit, which is
optimal for the budgets at which a step ends (Kellerer et al. 2004, "Knapsack Problems", section
11.2); what a step leaves of the budget goes to the single changes that still fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Choice:
    """A format of a set of linears: the bits of all its weights, and the damage to the end loss."""

    format: str
    bits: float
    damage: float


@dataclass(frozen=True)
class Allocation:
    """A choice for each set, and the sums of bits and damages on the way from the fewest bits."""

    choices: tuple[Choice, ...]
    curve: tuple[tuple[float, float], ...]

    @property
    def bits(self) -> float:
        """Of all weights."""
        return sum(choice.bits for choice in self.choices)

    @property
    def damage(self) -> float:
        """Of all sets."""
        return sum(choice.damage for choice in self.choices)


def hull(choices: Sequence[Choice]) -> list[Choice]:
    """The choices on the lower convex hull of damage over bits: more bits, less damage each."""
    result: list[Choice] = []
    for choice in sorted(choices, key=lambda c: (c.bits, c.damage)):
        if result and choice.damage >= result[-1].damage:
            continue
        while len(result) > 1 and _gain(result[-2], result[-1]) <= _gain(result[-1], choice):
            result.pop()
        result.append(choice)
    return result


def _gain(less: Choice, more: Choice) -> float:
    """Damage avoided for each further bit."""
    return (less.damage - more.damage) / (more.bits - less.bits)


def allocate(sets: Sequence[Sequence[Choice]], budget: float) -> Allocation:
    """A choice for each set whose bits together are within `budget`, with little damage.

    If even the fewest bits exceed the budget, every set takes those.
    """
    hulls = [hull(choices) for choices in sets]
    chosen = [choices[0] for choices in hulls]
    steps = [
        (_gain(less, more), number, less, more)
        for number, choices in enumerate(hulls)
        for less, more in pairwise(choices)
    ]
    steps.sort(key=lambda step: (-step[0], step[1]))
    point = sum(c.bits for c in chosen), sum(c.damage for c in chosen)
    free, curve, stopped = budget - point[0], [point], set[int]()
    for _, number, less, more in steps:
        point = point[0] + more.bits - less.bits, point[1] + more.damage - less.damage
        curve.append(point)
        if number in stopped or more.bits - less.bits > free:
            stopped.add(number)
            continue
        chosen[number], free = more, free - (more.bits - less.bits)
    return Allocation(tuple(_filled(sets, chosen, free)), tuple(curve))


def _filled(sets: Sequence[Sequence[Choice]], chosen: list[Choice], free: float) -> list[Choice]:
    """`chosen` with the single changes that `free` bits still pay, the best first."""
    while True:
        changes = [
            (now.damage - choice.damage, -number, choice)
            for number, (now, choices) in enumerate(zip(chosen, sets, strict=True))
            for choice in choices
            if choice.bits - now.bits <= free and choice.damage < now.damage
        ]
        if not changes:
            return chosen
        _, number, choice = max(changes, key=lambda change: change[:2])
        free -= choice.bits - chosen[-number].bits
        chosen[-number] = choice
