"""The figures of a load test for people and for programs."""

from salient.core.report import Report, Table

from .latencies import LoadResult, Spread
from .plans import Target

COLUMNS = ("step", "answered", "failed", "tok/s", "first token", "between", "whole")


def tell(target: Target, results: list[LoadResult]) -> Report:
    """A row for each step; it does not pass if a request failed. Times: P50 / P90 / P99 in ms."""
    rows = [_row(result) for result in results]
    lines = [f"{_step(result)}: {result.words}" for result in results if result.failed]
    lines += [f"{_step(result)}: {result.note}" for result in results if result.note]
    lines.append("Times in ms: P50 / P90 / P99. First token, between tokens, whole answer.")
    data = {"url": target.url, "model": target.model, "steps": [r.data() for r in results]}
    title = f"{target.model} at {target.url}"
    passed = all(result.totals.completed and not result.failed for result in results)
    return Report(data, [Table(title, COLUMNS, rows)], lines, passed=passed)


def _row(result: LoadResult) -> tuple[str, ...]:
    answered, failed = str(result.totals.completed), str(result.failed)
    spreads = (_times(result.ttft), _times(result.itl), _times(result.e2e))
    return (_step(result), answered, failed, f"{result.output_rate:.1f}", *spreads)


def _step(result: LoadResult) -> str:
    if result.rate is not None:
        return f"{result.rate:g}/s"
    return f"{result.concurrency} at once"


def _times(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    ends = (spread.p50, spread.p90, spread.p99)
    return " / ".join("-" if end is None else f"{end:.0f}" for end in ends)
