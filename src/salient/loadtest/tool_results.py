"""Results of other tools: the JSON of `vllm bench serve --save-result` (vLLM 0.32) and guidellm's
benchmarks.json (0.7, version 2).

guidellm's `inter_token_latency_ms` is what tpot is here, each request weighing as its tokens do;
its `time_per_output_token_ms` includes the first token and is not used; it has no single gaps. Its
percentiles are values that occurred. Requests that its end cut off are not counted.
"""

import json
from pathlib import Path

from salient.core.errors import RequestError

from .result import FailureCount, LatencySummary, LoadResult

VLLM_BENCH = "vllm bench serve"
GUIDELLM = "guidellm's benchmarks.json"


def load_json(path: Path, place: str, advice: str) -> object:
    """Raises RequestError for a file that is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{place} cannot be read ({error}). {advice}") from None


def parse_vllm_bench(result: object) -> LoadResult:
    """Raises RequestError. Percentiles that --metric-percentiles left out are None."""
    place = f"The result of {VLLM_BENCH}"
    completed = _count(result, "completed", place)

    def latency(name: str) -> LatencySummary | None:
        if not completed or _optional(result, f"mean_{name}_ms") is None:
            return None
        ends = ("mean", "median", "p90", "p99")
        return LatencySummary(*(_optional(result, f"{end}_{name}_ms") for end in ends))

    return LoadResult(
        tool=VLLM_BENCH,
        concurrency=_whole(_optional(result, "max_concurrency")),
        rate=_optional(result, "request_rate"),  # "inf" is a string there
        ttft=latency("ttft"),
        itl=latency("itl"),
        tpot=latency("tpot"),
        e2e=latency("e2el"),
        seconds=_number(result, "duration", place),
        completed=completed,
        input_tokens=_count(result, "total_input_tokens", place),
        output_tokens=_count(result, "total_output_tokens", place),
        failures=_failures("failed", _count(result, "failed", place)),
    )


def parse_guidellm(document: object) -> list[LoadResult]:
    """One result per benchmark. Raises RequestError."""
    benchmarks = document.get("benchmarks") if isinstance(document, dict) else None
    if not isinstance(benchmarks, list) or not benchmarks:
        raise RequestError(
            f"{GUIDELLM} has no list 'benchmarks'. Use the file of --output kind=json."
        )
    places = (f"{GUIDELLM}, benchmark {number}" for number in range(len(benchmarks)))
    return [_parse_benchmark(*pair) for pair in zip(benchmarks, places, strict=True)]


def _parse_benchmark(benchmark: object, place: str) -> LoadResult:
    completed = _count(benchmark, "metrics.request_totals.successful", place)
    strategy = "config.strategy"
    streams = _optional(benchmark, f"{strategy}.streams")
    streams = streams or _optional(benchmark, f"{strategy}.max_concurrency")
    synchronous = _at(benchmark, f"{strategy}.type_") == "synchronous"

    def latency(name: str, factor: float = 1.0) -> LatencySummary | None:
        if not completed:
            return None
        ends = ("mean", "percentiles.p50", "percentiles.p90", "percentiles.p99")
        paths = (f"metrics.{name}.successful.{end}" for end in ends)
        return LatencySummary(*(factor * _number(benchmark, path, place) for path in paths))

    def tokens(name: str) -> int:
        return _count(benchmark, f"metrics.{name}.successful.total_sum", place)

    return LoadResult(
        tool="guidellm",
        concurrency=1 if synchronous else _whole(streams),
        rate=_optional(benchmark, f"{strategy}.rate"),
        ttft=latency("time_to_first_token_ms"),
        itl=None,
        tpot=latency("inter_token_latency_ms"),
        e2e=latency("request_latency", 1e3),  # seconds there
        seconds=_number(benchmark, "duration", place),
        completed=completed,
        input_tokens=tokens("prompt_token_count"),
        output_tokens=tokens("output_token_count"),
        failures=_failures("errored", _count(benchmark, "metrics.request_totals.errored", place)),
    )


def _at(document: object, path: str) -> object:
    """The value at keys that dots separate; None where it is missing."""
    for key in path.split("."):
        document = document.get(key) if isinstance(document, dict) else None
    return document


def _optional(document: object, path: str) -> float | None:
    """The number from 0 on at a path; None for anything else."""
    value = _at(document, path)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < 1e18 else None


def _number(document: object, path: str, place: str) -> float:
    if (value := _optional(document, path)) is not None:
        return value
    raise RequestError(
        f"{place}: {path!r} is no number from 0 on. Is the file complete, and of this tool?"
    )


def _count(document: object, path: str, place: str) -> int:
    return int(_number(document, path, place))


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _failures(kind: str, count: int) -> tuple[FailureCount, ...]:
    return (FailureCount(kind, count, "see the tool's own output"),) if count else ()
