"""The server under load: times and throughput over the number of requests under way."""

from salient.validate.report.charts.lines import Curve, LineChart, lines
from salient.validate.report.figures import (
    milliseconds,
    number,
    seconds,
    share,
    short,
    show,
    tick,
    whole,
)
from salient.validate.report.levels import asked
from salient.validate.report.parts import HtmlCell, HtmlTable, Section, Tile, table, tile
from salient.validate.report.reading import Data, part, rows, ruled, words
from salient.validate.report.text_format import line

TIMES = (
    ("ttft", "Time to the first token", "ttft_p90"),
    ("itl", "Time between tokens", "itl_p90"),
    ("e2e", "Time of a whole answer", ""),
)
PERCENTILES = ("p50", "p90", "p99")


def load(found: Data, data: Data) -> Section:
    """The section `load`."""
    steps = rows(found, "steps")
    section = Section("load", "Load", _lead(found, steps))
    if not steps:
        section.notes = ["No step was run."]
        return section
    below, xs = _across(steps)
    section.charts = [_times(*time, below, xs, steps, data) for time in TIMES]
    section.charts.append(_throughput(below, xs, steps, data))
    section.tables = [_table(below, xs, steps)]
    section.brief = [_brief(below, xs, steps)]
    if any(rows(step, "failures") for step in steps):
        section.tables.append(_failures(below, xs, steps))
    notes = dict.fromkeys(line(words(step, "note"), 400) for step in steps)
    section.notes = [note for note in notes if note]
    if any(step.get("counted") == "chunks" for step in steps):
        section.notes.append("The server does not count tokens: a chunk is taken for one.")
    section.tiles = _tiles(steps, data)
    return section


def _lead(found: Data, steps: list[Data]) -> str:
    sent = sum(number(step.get("requests")) or 0 for step in steps)
    failed = sum(number(step.get("failed")) or 0 for step in steps)
    target = line(words(found, "target"), 120) or "an unnamed server"
    at = "Salient's own server" if target == "embedded" else target
    tool = line(words(found, "tool"), 40)
    by = f", timed by {tool}" if tool else ""
    if not sent:
        return f"{at[0].upper()}{at[1:]}{by}: how many requests were sent is not known."
    return f"{whole(sent)} requests to {at}{by}: {whole(failed)} failed."


def _across(steps: list[Data]) -> tuple[str, list[float]]:
    """What the steps differ in, and its values."""
    for key, said in (("concurrency", "requests at once"), ("rate", "requests a second, asked")):
        found = [number(step.get(key)) for step in steps]
        xs = [value for value in found if value is not None]
        if len(xs) == len(steps):
            return said, xs
    return "step", [float(i + 1) for i in range(len(steps))]


def _times(
    key: str, title: str, what: str, below: str, xs: list[float], steps: list[Data], data: Data
) -> LineChart:
    curves = [
        Curve(p.upper(), [number(part(step, key).get(p)) for step in steps], p) for p in PERCENTILES
    ]
    order = sorted(range(len(xs)), key=xs.__getitem__)
    return lines(
        title,
        "of half, 90% and 99% of the requests",
        below,
        [xs[i] for i in order],
        [Curve(c.name, [c.values[i] for i in order], c.colour) for c in curves],
        (milliseconds, _axis_time),
        levels=asked(data, "load", what, lambda v: f"{v:g} s, P90", 1000.0),
    )


def _axis_time(value: float) -> str:
    if not value:
        return "0"
    return f"{value / 1000:,.4g} s" if abs(value) >= 1000 else f"{value:,.4g} ms"


def _throughput(below: str, xs: list[float], steps: list[Data], data: Data) -> LineChart:
    order = sorted(range(len(xs)), key=xs.__getitem__)
    return lines(
        "Throughput",
        "output tokens a second, all requests together",
        below,
        [xs[i] for i in order],
        [
            Curve(
                "", [number(steps[i].get("output_tokens_per_second")) for i in order], "checkpoint"
            )
        ],
        (short, tick),
        levels=asked(data, "load", "throughput", tick),
    )


def _tiles(steps: list[Data], data: Data) -> list[Tile]:
    rates = [number(step.get("output_tokens_per_second")) for step in steps]
    best = max((r for r in rates if r is not None), default=None)
    first = min((number(part(step, "ttft").get("p90")) for step in steps), key=_none_last)
    remarks = [
        "" if ruled(data, "load", what) else "the best step" for what in ("throughput", "ttft_p90")
    ]
    return [
        tile(data, ("load", "throughput"), "Tokens a second", (best, short), remarks[0]),
        tile(
            data,
            ("load", "ttft_p90"),
            "First token, P90",
            (None if first is None else first / 1000, seconds),
            remarks[1],
        ),
    ]


def _none_last(value: float | None) -> float:
    return float("inf") if value is None else value


def _spread(step: Data, key: str) -> HtmlCell:
    found = [number(part(step, key).get(p)) for p in PERCENTILES]
    if all(value is None for value in found):
        return HtmlCell(show(None, milliseconds))
    return HtmlCell(" / ".join(show(value, milliseconds) for value in found))


def _table(below: str, xs: list[float], steps: list[Data]) -> HtmlTable:
    return table(
        "Each step",
        (
            below,
            "requests",
            "failed",
            "first token",
            "between tokens",
            "whole answer",
            "tokens/s",
            "requests/s",
        ),
        [
            (
                tick(x),
                show(step.get("requests"), whole),
                _failed(step),
                _spread(step, "ttft"),
                _spread(step, "itl"),
                _spread(step, "e2e"),
                show(step.get("output_tokens_per_second"), short),
                show(step.get("requests_per_second"), short),
            )
            for x, step in zip(xs, steps, strict=True)
        ],
        note="Times are P50 / P90 / P99 of the requests that completed.",
    )


def _failed(step: Data) -> HtmlCell:
    failed, sent = number(step.get("failed")), number(step.get("requests"))
    if failed and sent:
        return HtmlCell(whole(failed), share(failed / sent), "bad")
    return HtmlCell(show(failed, whole))


def _brief(below: str, xs: list[float], steps: list[Data]) -> HtmlTable:
    return table(
        "Load (P50 / P90 / P99)",
        (below, "first token", "between tokens", "tokens/s", "failed"),
        [
            (
                tick(x),
                _spread(step, "ttft"),
                _spread(step, "itl"),
                show(step.get("output_tokens_per_second"), short),
                _failed(step),
            )
            for x, step in zip(xs, steps, strict=True)
        ],
    )


def _failures(below: str, xs: list[float], steps: list[Data]) -> HtmlTable:
    return table(
        "Requests that failed",
        (below, "how", "requests", "what the first of them saw"),
        [
            (
                tick(x),
                line(failure.get("kind"), 40),
                show(failure.get("count"), whole),
                line(failure.get("words"), 300),
            )
            for x, step in zip(xs, steps, strict=True)
            for failure in rows(step, "failures")
        ],
        words=("how", "what the first of them saw"),
    )
