"""Two models' answers to the same examples: accuracy, retention, flips. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from salient.core.intervals import Interval, mcnemar, ratio, wilson

from .scoring import Example

FIGURES = (
    *("count", "accuracy_reference", "accuracy_quantized", "retention", "chance"),
    *("lost", "gained", "changed", "p_value"),
)


@dataclass(frozen=True)
class TaskOutcome:
    """A model's answer (for a choice, its text), and whether it is right."""

    answer: str
    correct: bool


@dataclass(frozen=True)
class AnswerFlip:
    """An example that only one of the two models gets right.

    lost: the reference is right and the quantized model wrong; gained: the other way round
    """

    example: Example
    direction: Literal["lost", "gained"]
    reference: str
    quantized: str


@dataclass(frozen=True)
class Tally:
    """Counts over examples of one kind, or over all.

    guessed: how many guessing gets right, the sum of the examples' chances
    changed: wrong by both, with different answers
    """

    kind: str
    count: int
    right_reference: int
    right_quantized: int
    lost: int
    gained: int
    changed: int
    guessed: float

    @property
    def accuracy_reference(self) -> float:
        """Share that the reference gets right, 0 to 1."""
        return self.right_reference / max(self.count, 1)

    @property
    def accuracy_quantized(self) -> float:
        """Share that the quantized model gets right, 0 to 1."""
        return self.right_quantized / max(self.count, 1)

    @property
    def chance(self) -> float:
        """Share that guessing gets right, 0 to 1."""
        return self.guessed / max(self.count, 1)

    @property
    def no_retention(self) -> str:
        """Why a retention would have no meaning; '' where it has one."""
        if not self.right_reference:
            return f"the reference solves none of {self.count}: no retention"
        if wilson(self.right_reference, self.count).low > self.chance:
            return ""
        return (
            f"the reference is not above chance ({self.accuracy_reference:.0%} of {self.count}, "
            f"chance {self.chance:.0%}): no retention"
        )

    @property
    def retention(self) -> float | None:
        """Quantized accuracy over reference accuracy; None for `no_retention`."""
        return None if self.no_retention else self.right_quantized / self.right_reference

    @property
    def p_value(self) -> float:
        """Of a loss (McNemar's exact test); 1 where no more was lost than gained."""
        return mcnemar(self.lost, self.gained) if self.lost > self.gained else 1.0

    @property
    def interval(self) -> Interval | None:
        """Of the retention; None for `no_retention`."""
        if self.no_retention:
            return None
        both = self.right_reference - self.lost
        neither = self.count - both - self.lost - self.gained
        counts = {(1, 1): both, (0, 1): self.lost, (1, 0): self.gained, (0, 0): neither}
        pairs = [pair for pair, count in counts.items() for _ in range(count)]
        quantized, reference = zip(*pairs, strict=True)
        return ratio(quantized, reference)

    def to_dict(self) -> dict[str, object]:
        """The counts and shares as plain numbers."""
        interval = self.interval
        figures = {name: getattr(self, name) for name in FIGURES}
        return {**figures, "interval": interval.ends if interval else None}


@dataclass(frozen=True)
class TaskComparison:
    """All tallies and every flip; kinds and flips in the order of the examples."""

    total: Tally
    kinds: tuple[Tally, ...]
    flips: tuple[AnswerFlip, ...]

    @property
    def tallies(self) -> tuple[Tally, ...]:
        """Each kind's, then the one of all examples."""
        return (*self.kinds, self.total)


_Row = tuple[Example, TaskOutcome, TaskOutcome]


def compare(
    examples: Sequence[Example], reference: Sequence[TaskOutcome], quantized: Sequence[TaskOutcome]
) -> TaskComparison:
    """Compare the outcomes of two models, one each for every example, in the same order."""
    rows = list(zip(examples, reference, quantized, strict=True))
    kinds = dict.fromkeys(example.kind for example in examples)
    return TaskComparison(
        total=_tally("all", rows),
        kinds=tuple(_tally(kind, [r for r in rows if r[0].kind == kind]) for kind in kinds),
        flips=tuple(
            AnswerFlip(example, "lost" if r.correct else "gained", r.answer, q.answer)
            for example, r, q in rows
            if r.correct != q.correct
        ),
    )


def _tally(kind: str, rows: Sequence[_Row]) -> Tally:
    return Tally(
        kind=kind,
        count=len(rows),
        right_reference=sum(r.correct for _, r, _ in rows),
        right_quantized=sum(q.correct for _, _, q in rows),
        lost=sum(r.correct and not q.correct for _, r, q in rows),
        gained=sum(q.correct and not r.correct for _, r, q in rows),
        changed=sum(
            not r.correct and not q.correct and r.answer.strip() != q.answer.strip()
            for _, r, q in rows
        ),
        guessed=sum(example.chance for example, _, _ in rows),
    )
