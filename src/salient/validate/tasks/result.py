"""Result of the tasks stage: accuracy and retention by kind, flips, and the cost of the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from salient.core.records import to_json
from salient.validate.policy.verdict import ALL, Measurement

from .comparison import AnswerFlip, Tally, TaskComparison

FEW = 100  # examples; where 5 % of them differ, these leave 7 points on each side of the retention
LONGEST_PROMPT = 4000  # characters of a flip's prompt, its end
MOST_FLIPS = 300  # in the JSON document


@dataclass
class Throughput:
    """Cost of a model's answers.

    cached: of the `parts`, those that an earlier run had answered; their seconds are that run's
    runs_as: how the model ran, as text
    """

    seconds: float = 0.0
    prompt_tokens: int = 0
    new_tokens: int = 0
    parts: int = 0
    cached: int = field(default=0, metadata={"key": "kept"})
    runs_as: str = ""

    @property
    def tokens_a_second(self) -> float | None:
        """Prompt and new tokens; None where nothing was computed."""
        tokens = self.prompt_tokens + self.new_tokens
        return tokens / self.seconds if self.seconds > 0 else None

    def to_dict(self) -> dict[str, object]:
        return {**to_json(self), "tokens_a_second": self.tokens_a_second}


@dataclass(frozen=True)
class TaskResult:
    """Two models' answers to the same examples.

    sets: names of the task sets   throughput: of "reference" and "quantized"
    notes: what a reader has to know of the figures
    """

    sets: tuple[str, ...]
    comparison: TaskComparison
    throughput: Mapping[str, Throughput] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        sets: Sequence[str],
        comparison: TaskComparison,
        throughput: Mapping[str, Throughput],
        notes: Sequence[str] = (),
    ) -> "TaskResult":
        """The result with its notes, those of the run first."""
        remarks = [*notes, *(note for tally in comparison.tallies for note in tally_notes(tally))]
        remarks += [
            f"{name}: {each.cached} of {each.parts} parts were answered by an earlier run; their "
            "seconds are that run's."
            for name, each in throughput.items()
            if each.cached
        ]
        flips = len(comparison.flips)
        if flips > MOST_FLIPS:
            remarks.append(f"Only the first {MOST_FLIPS} of {flips} flips are reported.")
        return cls(tuple(sets), comparison, throughput, tuple(remarks))

    def measurements(self) -> list[Measurement]:
        return [retention_of(tally) for tally in self.comparison.tallies]

    def to_dict(self) -> dict[str, object]:
        return {
            "sets": list(self.sets),
            **self.comparison.total.to_dict(),
            "kinds": {tally.kind: tally.to_dict() for tally in self.comparison.kinds},
            "flips": [_flip(flip) for flip in self.comparison.flips[:MOST_FLIPS]],
            "throughput": {name: each.to_dict() for name, each in self.throughput.items()},
            "notes": list(self.notes),
        }


def retention_of(tally: Tally) -> Measurement:
    """The retention of a kind, for the policy."""
    return Measurement(
        "tasks",
        "retention",
        tally.retention,
        tally.kind,
        tally.interval,
        sample=tally.count,
        why=tally.no_retention,
        p_value=tally.p_value,
    )


def tally_notes(tally: Tally) -> list[str]:
    """Reasons why a tally says little."""
    name = "all examples" if tally.kind == ALL else tally.kind
    if tally.no_retention:
        return [f"{name}: {tally.no_retention}."]
    notes = []
    if tally.interval is not None and tally.count < FEW:
        notes.append(
            f"{name}: only {tally.count} examples, the interval is {tally.interval.width:.2f} wide."
        )
    return notes


def _flip(flip: AnswerFlip) -> dict[str, object]:
    return {
        "id": flip.example.id,
        "kind": flip.example.kind,
        "direction": flip.direction,
        "prompt": flip.example.prompt[-LONGEST_PROMPT:],
        "expected": [text[:LONGEST_PROMPT] for text in flip.example.expected],
        "reference": flip.reference,
        "quantized": flip.quantized,
    }
