"""The server under load: times and throughput over the number of requests in flight."""

from collections.abc import Callable, Sequence

from salient.loadtest.result import LatencySummary, LoadResult
from salient.validate.load.result import LoadTestStageResult
from salient.validate.policy.verdict import Verdict
from salient.validate.report import text_format as fmt
from salient.validate.report.parts import HtmlCell, HtmlTable, Section, Tile, table
from salient.validate.report.plots import Curve, Plot, line_plot
from salient.validate.report.policy_view import levels, rule_on, tile

TIMES = (
    ("ttft", "Time to the first token", "ttft_p90"),
    ("itl", "Time between tokens", "itl_p90"),
    ("e2e", "Time of a whole answer", ""),
)
PERCENTILES = ("p50", "p90", "p99")
Step = tuple[float, LoadResult]  # and what it varies: concurrency, rate, or its number


def load_section(result: LoadTestStageResult, verdict: Verdict | None) -> Section:
    """Latencies and throughput of each step."""
    below, steps = _across(result.steps)
    notes = [fmt.line(note, 400) for note in dict.fromkeys(s.note for _, s in steps) if note]
    if any(step.counted == "chunks" for _, step in steps):
        notes.append("The server does not count tokens: each chunk counts as one.")
    return Section(
        lead=_lead(result),
        charts=[
            *(_time_plot(*time, below, steps, verdict) for time in TIMES),
            line_plot(
                "Throughput",
                "output tokens a second, all requests together",
                below,
                [x for x, _ in steps],
                [Curve("", [step.output_rate for _, step in steps], "checkpoint")],
                (fmt.short, fmt.tick),
                levels=levels(verdict, "load", "throughput", fmt.tick),
            ),
        ],
        tables=[_step_table(below, steps), _failure_table(below, steps)],
        tiles=_tiles(result.steps, verdict),
        notes=notes,
    )


def _lead(result: LoadTestStageResult) -> str:
    sent, failed = (sum(getattr(s, key) for s in result.steps) for key in ("requests", "failed"))
    target = "Salient's own server" if result.target == "embedded" else fmt.line(result.target, 120)
    tool = fmt.line(result.tool, 40)
    return (
        f"{fmt.integer(sent)} requests to {target}, timed by {tool}: {fmt.integer(failed)} failed."
    )


def _across(steps: Sequence[LoadResult]) -> tuple[str, list[Step]]:
    """What the steps vary, and the steps sorted by it."""
    for key, label in (("concurrency", "requests at once"), ("rate", "requested rate, 1/s")):
        values = [getattr(step, key) for step in steps]
        if None not in values:
            pairs = zip(map(float, values), steps, strict=True)
            return label, sorted(pairs, key=lambda pair: pair[0])
    return "step", [(float(number), step) for number, step in enumerate(steps, 1)]


def _percentiles(step: LoadResult, key: str) -> list[float | None]:
    latency: LatencySummary | None = getattr(step, key)
    return [getattr(latency, name) if latency else None for name in PERCENTILES]


def _time_plot(
    key: str, title: str, measure: str, below: str, steps: list[Step], verdict: Verdict | None
) -> Plot:
    each = [_percentiles(step, key) for _, step in steps]
    curves = [
        Curve(name.upper(), [values[index] for values in each], name)
        for index, name in enumerate(PERCENTILES)
    ]
    return line_plot(
        title,
        "of half, 90% and 99% of the requests",
        below,
        [x for x, _ in steps],
        curves,
        (fmt.milliseconds, fmt.milliseconds_tick),
        levels=levels(verdict, "load", measure, lambda value: f"{value:g} s, P90", 1000.0),
    )


def _tiles(steps: Sequence[LoadResult], verdict: Verdict | None) -> list[Tile]:
    rates = [step.output_rate for step in steps]
    times = [p90 / 1000 for step in steps if (p90 := _percentiles(step, "ttft")[1]) is not None]
    figures = (
        ("throughput", "Tokens a second", (max(rates, default=None), fmt.short)),
        ("ttft_p90", "First token, P90", (min(times, default=None), fmt.seconds)),
    )
    tiles = []
    for measure, label, figure in figures:
        remark = "" if rule_on(verdict, "load", measure) else "the best step"
        tiles.append(tile(verdict, ("load", measure), label, figure, remark))
    return tiles


def _times_cell(key: str) -> Callable[[LoadResult], str]:
    def render(step: LoadResult) -> str:
        return " / ".join(fmt.show(value, fmt.milliseconds) for value in _percentiles(step, key))

    return render


def _failed_cell(step: LoadResult) -> HtmlCell:
    if not step.failed:
        return HtmlCell("0")
    return HtmlCell(fmt.integer(step.failed), fmt.share(step.failed / step.requests), "bad")


def _step_table(below: str, steps: list[Step]) -> HtmlTable:
    columns = {
        "requests": lambda step: fmt.integer(step.requests),
        "failed": _failed_cell,
        "first token": _times_cell("ttft"),
        "between tokens": _times_cell("itl"),
        "whole answer": _times_cell("e2e"),
        "tokens/s": lambda step: fmt.short(step.output_rate),
        "requests/s": lambda step: fmt.short(step.request_rate),
    }
    rows = [(fmt.tick(x), step) for x, step in steps]
    note = "Times are P50 / P90 / P99 of the requests that completed."
    brief = ("first token", "between tokens", "tokens/s", "failed")
    return table("Each step", below, rows, columns, note=note, brief=brief)


def _failure_table(below: str, steps: list[Step]) -> HtmlTable:
    columns = {
        "failure": lambda failure: fmt.line(failure.kind, 40),
        "requests": lambda failure: fmt.integer(failure.count),
        "first message": lambda failure: fmt.line(failure.message, 300),
    }
    rows = [(fmt.tick(x), failure) for x, step in steps for failure in step.failures]
    texts = ("failure", "first message")
    return table("Failed requests", below, rows, columns, text_columns=texts)
