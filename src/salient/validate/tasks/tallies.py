"""Two models' outcomes as the stage `tasks`: retention by kind, how sure it is, what flipped."""

from collections.abc import Mapping, Sequence
from typing import Any

from salient.core.intervals import Interval, mcnemar, ratio, wilson
from salient.core.report import Table
from salient.validate.policy.verdict import ALL, Measurement
from salient.validate.stage import Stage

from .comparison import AnswerFlip, Tally, TaskComparison
from .examinee import Throughput

NAME, WHAT = "tasks", "retention"
FEW = 100  # examples; where 5 % of them differ, these leave 7 points on each side of the retention
LONGEST_PROMPT = 4000  # characters of a flip's prompt, its end
MOST_FLIPS = 300  # in the report
SHOWN_FLIPS, WIDEST = 4, 48  # of each direction in the terminal, and characters of an answer there


def stage_of(
    sets: list[str],
    comparison: TaskComparison,
    throughput: Mapping[str, Throughput],
    notes: Sequence[str] = (),
) -> Stage:
    """What both models' answers come to. `throughput`: of "reference" and "quantized"."""
    tallies = (*comparison.kinds, comparison.total)
    said = [*notes, *(note for tally in tallies for note in _notes(tally)), *_kept(throughput)]
    kept = [flip for flip in comparison.flips[:MOST_FLIPS]]
    if len(kept) < len(comparison.flips):
        said.append(f"The first {len(kept)} of {len(comparison.flips)} flips are told.")
    data = {
        "sets": sets,
        **_figures(comparison.total),
        "kinds": {tally.kind: _figures(tally) for tally in comparison.kinds},
        "flips": [_flip(flip) for flip in kept],
        "throughput": {name: each.figures() for name, each in throughput.items()},
        "notes": said,
    }
    lines = [*_speeds(throughput), *said, *_flips_in_words(comparison.flips)]
    return Stage(NAME, data, [measured(tally) for tally in tallies], [_table(tallies)], lines)


def unmeasured(why: str, kinds: Sequence[str]) -> Stage:
    """In place of figures, why there are none."""
    names = dict.fromkeys([ALL, *kinds])
    nothing = [Measurement(NAME, WHAT, None, kind, why=why) for kind in names]
    return Stage(NAME, {"error": why}, nothing, lines=[f"Tasks could not be measured: {why}"])


def measured(tally: Tally) -> Measurement:
    """The retention of a kind; the p-value is of a loss, 1 where more was gained than lost."""
    why = "" if tally.right_reference else "the reference solves no example of it"
    return Measurement(
        NAME,
        WHAT,
        tally.retention,
        tally.kind,
        _interval(tally),
        sample=tally.count,
        why=why,
        p_value=_p_value(tally),
    )


def _p_value(tally: Tally) -> float:
    return mcnemar(tally.lost, tally.gained) if tally.lost > tally.gained else 1.0


def _interval(tally: Tally) -> Interval | None:
    """Of the retention; None where the reference solves nothing."""
    if not tally.right_reference:
        return None
    both = tally.right_reference - tally.lost
    neither = tally.count - both - tally.lost - tally.gained
    pairs = [(1, 1)] * both + [(0, 1)] * tally.lost + [(1, 0)] * tally.gained + [(0, 0)] * neither
    quantized, reference = zip(*pairs, strict=True)
    return ratio(quantized, reference)


def _figures(tally: Tally) -> dict[str, Any]:
    interval = _interval(tally)
    ends = None if interval is None else [interval.low, interval.high]
    return {**tally.figures(), "p_value": _p_value(tally), "interval": ends}


def _notes(tally: Tally) -> list[str]:
    """What makes a tally say little."""
    name = "all examples" if tally.kind == ALL else tally.kind
    if not tally.right_reference:
        return [f"{name}: the reference solves none of {tally.count}, so nothing can be kept."]
    found = []
    if tally.chance and wilson(tally.right_reference, tally.count).low <= tally.chance:
        found.append(
            f"{name}: the reference is not above chance ({tally.accuracy_reference:.0%} of "
            f"{tally.count}, a guess {tally.chance:.0%}), so the retention tells nothing."
        )
    interval = _interval(tally)
    if tally.count < FEW and interval is not None:
        found.append(
            f"{name}: only {tally.count} examples, the interval is {interval.width:.2f} wide."
        )
    return found


def _kept(throughput: Mapping[str, Throughput]) -> list[str]:
    return [
        f"{name}: {each.kept} of {each.parts} parts were answered by an earlier run; their seconds "
        "are that run's."
        for name, each in throughput.items()
        if each.kept
    ]


def _speeds(throughput: Mapping[str, Throughput]) -> list[str]:
    return [
        f"{name}: {each.prompt_tokens} prompt and {each.new_tokens} new tokens in "
        f"{each.seconds:.0f} s, {each.tokens_a_second or 0:.0f} a second ({each.runs_as})."
        for name, each in throughput.items()
    ]


def _table(tallies: Sequence[Tally]) -> Table:
    columns = ("kind", "examples", "reference", "quantized", "retention", "lost", "gained", "p")
    rows = []
    for tally in tallies:
        interval = _interval(tally)
        kept = "-"
        if interval is not None:
            kept = f"{interval.middle:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        rows.append(
            (
                tally.kind,
                str(tally.count),
                f"{tally.accuracy_reference:.1%}",
                f"{tally.accuracy_quantized:.1%}",
                kept,
                str(tally.lost),
                str(tally.gained),
                f"{_p_value(tally):.2g}",
            )
        )
    return Table("Tasks: both models on the same examples", columns, rows)


def _flip(flip: AnswerFlip) -> dict[str, Any]:
    return {
        "id": flip.example.id,
        "kind": flip.example.kind,
        "direction": flip.direction,
        "prompt": flip.example.prompt[-LONGEST_PROMPT:],
        "expected": [text[:LONGEST_PROMPT] for text in flip.example.expected],
        "reference": flip.reference,
        "quantized": flip.quantized,
    }


def _flips_in_words(flips: Sequence[AnswerFlip]) -> list[str]:
    """A few of each direction."""
    few = [
        flip
        for direction in ("lost", "gained")
        for flip in [f for f in flips if f.direction == direction][:SHOWN_FLIPS]
    ]
    return [
        f"{flip.direction} {flip.example.id}: expected {_shown(flip.example.expected[0])}, the "
        f"reference said {_shown(flip.reference)}, the checkpoint {_shown(flip.quantized)}."
        for flip in few
    ]


def _shown(text: str) -> str:
    """A model's words in one line, without what would move a terminal's cursor."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return repr(plain if len(plain) <= WIDEST else plain[: WIDEST - 3] + "...")
