"""The tasks stage in the terminal."""

from collections.abc import Sequence

from salient.core.report import Table

from .comparison import AnswerFlip, Tally
from .result import TaskResult

COLUMNS = ("kind", "examples", "reference", "quantized", "retention", "lost", "gained", "p")
SHOWN_FLIPS, WIDEST = 4, 48  # of each direction, and characters of an answer


def render_tasks(result: TaskResult) -> tuple[list[Table], list[str]]:
    """A row for each kind; speeds, notes and a few flips."""
    table = Table(
        "Tasks: both models on the same examples",
        COLUMNS,
        [_row(tally) for tally in result.comparison.tallies],
    )
    speeds = [
        f"{name}: {each.prompt_tokens} prompt and {each.new_tokens} new tokens in "
        f"{each.seconds:.0f} s, {each.tokens_a_second or 0:.0f} a second ({each.runs_as})."
        for name, each in result.throughput.items()
    ]
    return [table], [*speeds, *result.notes, *_flip_lines(result.comparison.flips)]


def _row(tally: Tally) -> tuple[str, ...]:
    retention = "-"
    if (interval := tally.interval) is not None:
        retention = f"{interval.middle:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    return (
        tally.kind,
        str(tally.count),
        f"{tally.accuracy_reference:.1%}",
        f"{tally.accuracy_quantized:.1%}",
        retention,
        str(tally.lost),
        str(tally.gained),
        f"{tally.p_value:.2g}",
    )


def _flip_lines(flips: Sequence[AnswerFlip]) -> list[str]:
    """A few of each direction."""
    return [
        f"{flip.direction} {flip.example.id}: expected {_quoted(flip.example.expected[0])}, the "
        f"reference said {_quoted(flip.reference)}, the checkpoint {_quoted(flip.quantized)}."
        for direction in ("lost", "gained")
        for flip in [f for f in flips if f.direction == direction][:SHOWN_FLIPS]
    ]


def _quoted(text: str) -> str:
    """A model's answer on one line, without characters that move a terminal's cursor."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return repr(plain if len(plain) <= WIDEST else plain[: WIDEST - 3] + "...")
