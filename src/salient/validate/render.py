"""A validation in the terminal: each stage, then the verdict."""

from collections import Counter
from collections.abc import Sequence

from salient.core.intervals import FEWEST, Interval
from salient.core.report import Report, Table, duration, mebibytes
from salient.loadtest.plan import LoadTarget
from salient.loadtest.report import to_report as load_report
from salient.validate.attribution.result import AttributionResult, DriftResult, Suggestion
from salient.validate.context.result import ContextResult, RetrievalResult
from salient.validate.likelihood.result import LikelihoodResult, TextComparison
from salient.validate.load.result import LoadTestStageResult
from salient.validate.policy.verdict import Verdict
from salient.validate.tasks.comparison import AnswerFlip, Tally
from salient.validate.tasks.result import TaskResult

from .result import ValidationResult
from .stage import StageResult, UnmeasuredStage

COMPARISON = ("KL (nats)", "top-1", "perplexity", "of the reference")
TASKS = ("kind", "examples", "reference", "quantized", "retention", "lost", "gained", "p")
SHOWN_BLOCKS = 5
SHOWN_FLIPS, WIDEST = 4, 48  # of each direction, and characters of an answer
HOLDS = {True: "yes", False: "NO", None: "?"}
LABELS = {False: "FAIL", None: "UNDECIDED"}
JUDGED = {
    "upper": "the worse end of each interval has to satisfy the bound",
    "middle": "the worse end of each interval has to satisfy the bound; of a load test, the value",
}

Rendering = tuple[list[Table], list[str]]


def to_report(result: ValidationResult) -> Report:
    """The report; it passes unless a policy was given and its verdict is not "pass"."""
    tables: list[Table] = []
    lines: list[str] = []
    title = f"{result.checkpoint} against {result.reference}"
    if result.model.scheme is None:
        lines.append(f"{result.checkpoint} is not quantized: two 16-bit models are compared.")
    lines += [difference.summary for difference in result.differences]
    if result.integrity is not None:
        lines += result.integrity.lines
    for stage in result.stages.values():
        more_tables, more_lines = render_stage(stage, title)
        tables += more_tables
        lines += more_lines
    cached = f"; {result.cached_parts} parts taken from earlier runs" * (result.cached_parts > 0)
    lines.append(f"Measured in {duration(result.seconds)}{cached}.")
    if result.verdict is not None:
        table, more_lines = render_verdict(result.verdict)
        tables.append(table)
        lines += more_lines
    passed = result.verdict is None or result.verdict.word == "pass"
    return Report(result.to_dict(), tables, lines, passed=passed)


def render_stage(stage: StageResult, title: str = "") -> Rendering:
    match stage:
        case UnmeasuredStage():
            return [], [stage.summary]
        case LikelihoodResult():
            return _likelihood(stage, title)
        case TaskResult():
            return _tasks(stage)
        case ContextResult():
            return _context(stage)
        case LoadTestStageResult():
            report = load_report(LoadTarget(stage.target, stage.model), list(stage.steps))
            return report.tables, [*report.lines, stage.judged]
        case AttributionResult():
            return _attribution(stage)
    raise TypeError(f"no stage result: {stage!r}")


def _likelihood(result: LikelihoodResult, title: str) -> Rendering:
    """A row for each text, and what a reader has to know of them."""
    summary = result.protocol.summary
    lines = [
        f"{summary[0].upper()}{summary[1:]}; both models in float32; {duration(result.seconds)}.",
        "In brackets 95 % intervals, by the bootstrap over windows.",
    ]
    few = [name for name, text in result.texts.items() if text.windows < FEWEST]
    if few:
        lines[1] = f"Too few windows for intervals: {', '.join(few)}. Give at least {FEWEST}."
    lines += [row.summary for row in result.published]
    if len(result.texts) > 1:
        worst = result.worst_text("kl")
        lines.append(f"Each of the {len(result.texts)} texts is judged; by KL {worst} is worst.")
    if not result.total.sums.predicted:
        lines.append("The model predicts no next token: KL and top-1 are of its own answers.")
    cosine = result.total.sums.cosine
    if cosine is not None:
        lines.append(f"Mean cosine of the embeddings of both models: {cosine:.5f}.")
    rows = [
        (name, str(text.sums.tokens), *_comparison(text)) for name, text in result.texts.items()
    ]
    return [Table(title, ("text", "tokens", *COMPARISON), rows)], lines


def _comparison(text: TextComparison) -> tuple[str, ...]:
    """KL, top-1 agreement and both perplexities, with their intervals."""
    forms = {"kl": ".4f", "top1": ".1%", "perplexity_quantized": ".3f"}
    cells = [
        f"{getattr(text.sums, name):{form}}{_bracketed(text.intervals.get(name), form)}"
        for name, form in forms.items()
    ]
    if not text.sums.predicted:
        return (*cells[:2], "-", "-")
    return (*cells, f"{text.sums.perplexity_reference:.3f}")


def _bracketed(interval: Interval | None, form: str) -> str:
    return f" [{interval.low:{form}}, {interval.high:{form}}]" if interval else ""


def _tasks(result: TaskResult) -> Rendering:
    """A row for each kind; speeds, notes and a few flips."""
    rows = [_tally_row(tally) for tally in result.comparison.tallies]
    speeds = [
        f"{name}: {each.prompt_tokens} prompt and {each.new_tokens} new tokens in "
        f"{each.seconds:.0f} s, {each.tokens_a_second or 0:.0f} a second ({each.runs_as})."
        for name, each in result.throughput.items()
    ]
    lines = [*speeds, *result.notes, *_flip_lines(result.comparison.flips)]
    return [Table("Tasks: both models on the same examples", TASKS, rows)], lines


def _tally_row(tally: Tally) -> tuple[str, ...]:
    interval = tally.interval
    return (
        tally.kind,
        str(tally.count),
        f"{tally.accuracy_reference:.1%}",
        f"{tally.accuracy_quantized:.1%}",
        f"{interval.middle:.3f}{_bracketed(interval, '.3f')}" if interval else "-",
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


def _context(result: ContextResult) -> Rendering:
    """A row for each length; growth, the first positions, what is missing, hidden facts."""
    rows = [(str(n), str(each.windows), *_comparison(each)) for n, each in result.lengths.items()]
    title = "Long context: the same text in windows of each length"
    tables = [Table(title, ("length", "windows", *COMPARISON), rows)]
    lines = ["Both models in float32. In brackets 95 % intervals, by the bootstrap over windows."]
    if (growth := result.growth) is not None:
        drawn = f"; interval over {growth.drawn}" if growth.interval else ""
        lines.append(
            f"KL growth {growth.value:.3f}{_bracketed(growth.interval, '.3f')}: "
            f"{result.growth_summary}{drawn}."
        )
    if len(result.positions) > 1:
        first, *rest = result.positions
        later = sum(bucket.kl for bucket in rest) / len(rest)
        lines.append(
            f"KL of positions {first.first} to {first.last}: {first.kl:.4f}, of the later ones "
            f"{later:.4f}."
        )
    few = [f"{c.windows} of {n}" for n, c in result.lengths.items() if c.windows < FEWEST]
    if few:
        lines.append(f"Windows too few for an interval ({FEWEST}): {', '.join(few)} tokens.")
    lines += [f"{note[0].upper()}{note[1:]}." for note in result.notes]
    if result.retrieval is None:
        return tables, [*lines, f"Hidden facts could not be searched for: {result.retrieval_error}"]
    return [*tables, _retrieval(result.retrieval)], lines + result.retrieval.notes


def _retrieval(retrieval: RetrievalResult) -> Table:
    """A row for each length; right answers at each depth, checkpoint / reference."""
    counts = {(row.length, row.depth): row for row in retrieval.rows}
    depths = sorted({depth for _, depth in counts})
    rows = []
    for length in sorted({length for length, _ in counts}):
        each = [counts.get((length, depth)) for depth in depths]
        sums = (
            str(sum(getattr(row, name) for row in each if row))
            for name in ("count", "reference", "quantized")
        )
        cells = (f"{row.quantized}/{row.reference}" if row else "" for row in each)
        rows.append((str(length), *sums, *cells))
    columns = ("length", "facts", "reference", "checkpoint", *(f"at {d:.0%}" for d in depths))
    return Table("Facts found again, by length and depth (checkpoint/reference)", columns, rows)


def _attribution(result: AttributionResult) -> Rendering:
    """The worst blocks, the kinds, suggested fixes, and the texts against the calibration."""
    parts = {
        "block": ("Where the damage sits: the worst blocks", result.blocks, SHOWN_BLOCKS),
        "kind": ("The kinds of linears", result.kinds, None),
    }
    tables, totals = [], []
    for part, (title, kls, most) in parts.items():
        totals.append(total := sum(kls.values()))
        worst = sorted(kls.items(), key=lambda item: -item[1])[:most]
        rows = [(name, f"{kl:.5f}", f"{kl / max(total, 1e-12):.0%}") for name, kl in worst]
        tables.append(Table(title, (part, "KL alone", "of the sum"), rows))
    columns = ("change", "KL", "how known", "larger by")
    rows = [("none", f"{result.whole:.4f}", "measured", ""), *map(_change, result.suggestions)]
    tables.append(Table("Suggested fixes", columns, rows, text_columns=("how known",)))
    lines = [
        f"On {result.windows} x {result.length} tokens the checkpoint has a KL of "
        f"{result.whole:.4f} nats; its blocks, each alone in the reference, add up to "
        f"{totals[0]:.4f}, its kinds to {totals[1]:.4f}.",
        *result.notes,
    ]
    if result.drift.yardstick is None:
        lines.append(result.drift.unknown)
    else:
        tables.append(_drift(result.drift))
    return [table for table in tables if table.rows], lines


def _change(suggestion: Suggestion) -> tuple[str, ...]:
    if suggestion.kl is None:
        return suggestion.what, "?", "", ""
    source = "measured" if suggestion.measured else "estimated"
    return suggestion.what, f"{suggestion.kl:.4f}", source, mebibytes(suggestion.bytes)


def _drift(drift: DriftResult) -> Table:
    rows = [
        (name, f"{figures.salient_share:.0%}", f"{figures.log_ratio:.3f}", label)
        for name, figures, label in drift.rows("")
    ]
    title = f"How like the calibration ({drift.calibration}) the texts are"
    columns = ("text", "salient channels kept", "log ratio", "it is")
    return Table(title, columns, rows, text_columns=("it is",))


def render_verdict(verdict: Verdict) -> tuple[Table, list[str]]:
    """A row for each rule; the rules that do not hold and why, then the verdict."""
    rows = [
        (
            rule.title,
            "-" if rule.value is None else f"{rule.value:.4g}",
            f"{rule.interval.low:.4g} to {rule.interval.high:.4g}" if rule.interval else "-",
            f"{rule.direction} {rule.bound:g} {rule.unit}",
            HOLDS[rule.passed],
        )
        for rule in verdict.rules
    ]
    title = f"Policy {verdict.policy}: {JUDGED[verdict.use]}"
    columns = ("what", "measured", "interval", "bound", "holds")
    lines = [
        f"{label}: {rule.title}: {rule.reason.rstrip('.')}."
        for passed, label in LABELS.items()
        for rule in verdict.rules
        if rule.passed is passed
    ]
    if verdict.left_out:
        lines.append(f"Not selected, so not judged: {', '.join(verdict.left_out)}.")
    return Table(title, columns, rows, columns[3:]), [*lines, _summary(verdict)]


def _summary(verdict: Verdict) -> str:
    if not verdict.rules:
        return "Verdict: could not measure. The policy has no rule for the stages that were run."
    counts = Counter(rule.passed for rule in verdict.rules)
    return (
        f"Verdict: {verdict.word}. By {verdict.policy}, of {len(verdict.rules)} rules "
        f"{counts[True]} hold, {counts[False]} do not, {counts[None]} are undecided."
    )
