"""Results of other tools: the JSON of `vllm bench serve --save-result` (vLLM 0.32) and guidellm's
benchmarks.json (0.7, version 2).

guidellm's `inter_token_latency_ms` is what tpot is here, each request weighing as its tokens do;
its `time_per_output_token_ms` includes the first token and is not used; it has no single gaps. Its
percentiles are values that occurred. Requests that its end cut off are not counted.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from salient.core.errors import RequestError

from .result import FailureCount, LatencySummary, LoadResult


@dataclass(frozen=True)
class ToolJson:
    """A JSON value, and where it is from. Its methods raise RequestError."""

    value: object
    place: str

    def get(self, key: str) -> object:
        return self.value.get(key) if isinstance(self.value, dict) else None

    def part(self, *keys: str) -> Self:
        """The object at `keys`, one inside another."""
        part = self
        for key in keys:
            part = type(self)(part.get(key), self.place)
            if not isinstance(part.value, dict):
                raise RequestError(
                    f"{self.place}: no object {key!r}. Is the file complete, and of this tool?"
                )
        return part

    def optional(self, key: str) -> float | None:
        """A number from 0 on; None for anything else."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return value if 0 <= value < 1e18 else None

    def number(self, key: str) -> float:
        if (value := self.optional(key)) is not None:
            return value
        raise RequestError(
            f"{self.place}: {key!r} is no number from 0 on. Is the file complete, and of this tool?"
        )


def load_json(path: Path, place: str, advice: str) -> ToolJson:
    try:
        return ToolJson(json.loads(path.read_text(encoding="utf-8")), place)
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{place} cannot be read ({error}). {advice}") from None


def parse_vllm_bench(result: ToolJson) -> LoadResult:
    """Raises RequestError. Percentiles that --metric-percentiles left out are None."""
    completed, failed = int(result.number("completed")), int(result.number("failed"))

    def latency(name: str) -> LatencySummary | None:
        if not completed or result.optional(f"mean_{name}_ms") is None:
            return None
        ends = ("mean", "median", "p90", "p99")
        return LatencySummary(*(result.optional(f"{end}_{name}_ms") for end in ends))

    return LoadResult(
        tool="vllm bench serve",
        concurrency=_whole(result.optional("max_concurrency")),
        rate=result.optional("request_rate"),  # "inf" is a string there
        ttft=latency("ttft"),
        itl=latency("itl"),
        tpot=latency("tpot"),
        e2e=latency("e2el"),
        seconds=result.number("duration"),
        completed=completed,
        input_tokens=int(result.number("total_input_tokens")),
        output_tokens=int(result.number("total_output_tokens")),
        failures=_failures("failed", failed),
    )


def parse_guidellm(document: ToolJson) -> list[LoadResult]:
    """One result per benchmark. Raises RequestError."""
    benchmarks = document.get("benchmarks")
    if not isinstance(benchmarks, list) or not benchmarks:
        raise RequestError(
            f"{document.place} has no list 'benchmarks'. Use the file of --output kind=json."
        )
    places = (f"{document.place}, benchmark {number}" for number in range(len(benchmarks)))
    return [_parse_benchmark(ToolJson(*pair)) for pair in zip(benchmarks, places, strict=True)]


def _parse_benchmark(benchmark: ToolJson) -> LoadResult:
    metrics = benchmark.part("metrics")
    totals = metrics.part("request_totals")
    completed, failed = int(totals.number("successful")), int(totals.number("errored"))
    strategy = benchmark.part("config", "strategy")
    streams = strategy.optional("streams") or strategy.optional("max_concurrency")

    def latency(name: str, factor: float = 1.0) -> LatencySummary | None:
        if not completed:
            return None
        values = metrics.part(name, "successful")
        ends = (values.part("percentiles").number(key) for key in ("p50", "p90", "p99"))
        return LatencySummary(*(factor * value for value in (values.number("mean"), *ends)))

    def tokens(name: str) -> int:
        return int(metrics.part(name, "successful").number("total_sum"))

    return LoadResult(
        tool="guidellm",
        concurrency=1 if strategy.get("type_") == "synchronous" else _whole(streams),
        rate=strategy.optional("rate"),
        ttft=latency("time_to_first_token_ms"),
        itl=None,
        tpot=latency("inter_token_latency_ms"),
        e2e=latency("request_latency", 1e3),  # seconds there
        seconds=benchmark.number("duration"),
        completed=completed,
        input_tokens=tokens("prompt_token_count"),
        output_tokens=tokens("output_token_count"),
        failures=_failures("errored", failed),
    )


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _failures(kind: str, count: int) -> tuple[FailureCount, ...]:
    return (FailureCount(kind, count, "see the tool's own output"),) if count else ()
