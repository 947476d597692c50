"""What both models answer to the same examples, and where they differ."""

from collections.abc import Mapping

from salient.validate.policy.verdict import Verdict
from salient.validate.report import text_format as fmt
from salient.validate.report.axis import linear
from salient.validate.report.charts import EQUAL, RowChart, bar_row, dot_row, pair_row
from salient.validate.report.parts import HtmlTable, Section, cell, table
from salient.validate.report.policy_view import levels, tile
from salient.validate.tasks.comparison import Tally
from salient.validate.tasks.result import TaskResult, Throughput

ALL_EXAMPLES = "all examples"
MODELS = {"reference": "reference", "quantized": "checkpoint"}


def tasks_section(result: TaskResult, verdict: Verdict | None) -> Section:
    """Accuracy and retention of each kind, throughput, flips."""
    total = result.comparison.total
    tallies = {fmt.line(tally.kind, 40): tally for tally in result.comparison.kinds}
    if len(tallies) != 1:
        tallies[ALL_EXAMPLES] = total
    throughput = {MODELS[side]: each for side, each in result.throughput.items()}
    retention, examples = (total.retention, fmt.share), f"of {fmt.integer(total.count)} examples"
    return Section(
        lead=f"The reference gets {fmt.share(total.accuracy_reference)} right, the checkpoint "
        f"{fmt.share(total.accuracy_quantized)}. {fmt.integer(total.lost)} examples are lost, "
        f"{fmt.integer(total.gained)} gained.",
        charts=[
            _accuracy_chart(tallies),
            _retention_chart(tallies, verdict),
            _throughput_chart(throughput),
        ],
        tables=[_kind_table(tallies), _throughput_table(throughput)],
        flips=sorted(result.comparison.flips, key=lambda flip: flip.direction == "gained"),
        notes=[fmt.line(note, 400) for note in result.notes],
        tiles=[tile(verdict, ("tasks", "retention"), "Retention", retention, examples)],
    )


def _accuracy_chart(tallies: Mapping[str, Tally]) -> RowChart:
    rows = [
        pair_row(
            name,
            (tally.accuracy_reference, tally.accuracy_quantized, tally.chance),
            fmt.share,
            strong=name == ALL_EXAMPLES,
        )
        for name, tally in tallies.items()
    ]
    chance = [("guess", "a guess")] * any(tally.chance for tally in tallies.values())
    return RowChart(
        "Right answers by kind",
        "share of examples, both models",
        rows,
        fmt.share_tick,
        scale=lambda values: linear([1.0, *values], most=1.0),
        legend=[("reference", "reference"), ("checkpoint", "checkpoint"), *chance],
    )


def _retention_chart(tallies: Mapping[str, Tally], verdict: Verdict | None) -> RowChart:
    rows = [
        dot_row(name, tally.retention, tally.interval, fmt.share, strong=name == ALL_EXAMPLES)
        for name, tally in tallies.items()
    ]
    return RowChart(
        "Retention by kind",
        "of what the reference gets right, with 95% intervals",
        rows,
        fmt.share_tick,
        scale=lambda values: linear(values, zero=False),
        levels=[*levels(verdict, "tasks", "retention", fmt.share_tick), EQUAL],
    )


def _throughput_chart(throughput: Mapping[str, Throughput]) -> RowChart:
    rows = [bar_row(name, t.tokens_a_second, fmt.rate, name) for name, t in throughput.items()]
    unit = "prompt and new tokens a second, in this run"
    return RowChart("Answer throughput", unit, rows, fmt.tick, scale=linear, wide=True)


def _throughput_table(throughput: Mapping[str, Throughput]) -> HtmlTable:
    columns = {
        "prompt tokens": lambda each: fmt.integer(each.prompt_tokens),
        "new tokens": lambda each: fmt.integer(each.new_tokens),
        "seconds": lambda each: fmt.seconds(each.seconds),
        "tokens/s": lambda each: fmt.show(each.tokens_a_second, fmt.short),
        "runs as": lambda each: fmt.line(each.runs_as, 120),
    }
    rows = throughput.items()
    return table("Answer throughput", "model", rows, columns, text_columns=("runs as",))


def _kind_table(tallies: Mapping[str, Tally]) -> HtmlTable:
    columns = {
        "examples": lambda tally: fmt.integer(tally.count),
        "reference": lambda tally: fmt.share(tally.accuracy_reference),
        "checkpoint": lambda tally: fmt.share(tally.accuracy_quantized),
        "retention": lambda tally: cell(tally.retention, fmt.share, tally.interval),
        "lost": lambda tally: fmt.integer(tally.lost),
        "gained": lambda tally: fmt.integer(tally.gained),
        "both wrong, otherwise": lambda tally: fmt.integer(tally.changed),
        "p": lambda tally: f"{tally.p_value:.2g}",
    }
    note = (
        "p: how likely a difference this large is by luck alone (McNemar's exact test, "
        "two-sided). “Both wrong, otherwise” counts wrong answers that changed."
    )
    brief = tuple(columns)[:6]
    return table("Each kind", "kind", tallies.items(), columns, note=note, brief=brief)
