"""The verdict in the terminal."""

from collections import Counter

from salient.core.intervals import Interval
from salient.core.report import Table

from .verdict import Verdict

HOLDS = {True: "yes", False: "NO", None: "?"}
LABELS = {False: "FAIL", None: "UNDECIDED"}


def render_verdict(verdict: Verdict) -> tuple[Table, list[str]]:
    """A row for each rule; the rules that do not hold and why, then the verdict."""
    end = "the worse end of each interval" if verdict.use == "upper" else "what was measured"
    table = Table(
        f"Policy {verdict.policy}: {end} has to satisfy the bound",
        ("what", "measured", "interval", "bound", "holds"),
        [
            (
                rule.title,
                "-" if rule.value is None else f"{rule.value:.4g}",
                _interval(rule.interval),
                f"{rule.direction} {rule.bound:g} {rule.unit}",
                HOLDS[rule.passed],
            )
            for rule in verdict.rules
        ],
        text_columns=("bound", "holds"),
    )
    lines = [
        f"{label}: {rule.title}: {rule.reason.rstrip('.')}."
        for passed, label in LABELS.items()
        for rule in verdict.rules
        if rule.passed is passed
    ]
    if verdict.left_out:
        lines.append(f"Not selected, so not judged: {', '.join(verdict.left_out)}.")
    return table, [*lines, _summary(verdict)]


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:.4g} to {interval.high:.4g}"


def _summary(verdict: Verdict) -> str:
    if not verdict.rules:
        return "Verdict: could not measure. The policy has no rule for the stages that were run."
    counts = Counter(rule.passed for rule in verdict.rules)
    return (
        f"Verdict: {verdict.word}. By {verdict.policy}, of {len(verdict.rules)} rules "
        f"{counts[True]} hold, {counts[False]} do not, {counts[None]} are undecided."
    )
