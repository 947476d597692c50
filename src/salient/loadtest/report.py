"""The report of a load test, and the choice of its tool."""

import os
from pathlib import Path

from salient.core.errors import RequestError
from salient.core.options import numbers
from salient.core.progress import Progress
from salient.core.report import Report, Table

from .client import resolve_model
from .load_runner import run_load
from .options import LoadTestOptions
from .other_tools import GUIDELLM, load_json, parse_guidellm, run_vllm_bench
from .plan import LoadPlan, LoadStep, LoadTarget
from .result import LatencySummary, LoadResult

COLUMNS = ("step", "answered", "failed", "tok/s", "first token", "between", "whole")
TOOLS = ("salient", "vllm", "guidellm")


def load_test(options: LoadTestOptions) -> tuple[list[LoadResult], Report]:
    """Run the load test. Raises RequestError for invalid options, and where the tool fails."""
    api = "chat" if options.chat else "completions"
    key = os.environ.get("OPENAI_API_KEY")
    target = LoadTarget(options.url, options.model or "", api, key, options.timeout)
    steps = tuple(map(LoadStep, numbers(options.concurrency)))
    plan = LoadPlan(
        steps if options.rate is None else (LoadStep(rate=options.rate),),
        options.requests,
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.max_new_tokens,
        seed=options.seed,
    )
    target, results = run_tool(options.tool, target, plan, options.progress, options.tokenizer)
    return results, to_report(target, results)


def run_tool(
    tool: str, target: LoadTarget, plan: LoadPlan, progress: Progress, tokenizer: str = ""
) -> tuple[LoadTarget, list[LoadResult]]:
    """Run `plan` with `tool`, one of TOOLS: the target, its model found, and a result per step.

    salient: the built-in client; vllm: `vllm bench serve`, with the model's `tokenizer`;
    guidellm: read its benchmarks.json, whose path is the target's url

    Raises RequestError for an invalid plan or target, and where the tool fails.
    """
    if tool not in TOOLS:
        raise RequestError(f"No tool {tool[:40]!r} for load tests. Known: {', '.join(TOOLS)}.")
    if tool == "guidellm":
        advice = "Run guidellm with --output kind=json, and pass the file in place of the address."
        return target, parse_guidellm(load_json(Path(target.url), GUIDELLM, advice))
    target = resolve_model(target)
    if tool == "vllm":
        return target, run_vllm_bench(target, plan, progress, tokenizer)
    return target, run_load(target, plan, progress)


def to_report(target: LoadTarget, results: list[LoadResult]) -> Report:
    """A row per step; it does not pass if a request failed. Times: P50 / P90 / P99 in ms."""
    rows = [
        (
            result.label.replace(" requests/s", "/s"),
            str(result.completed),
            str(result.failed),
            f"{result.output_rate:.1f}",
            *map(_format_ms, (result.ttft, result.itl, result.e2e)),
        )
        for result in results
    ]
    lines = [f"{result.label}: {result.summary}" for result in results if result.failed]
    lines += [f"{result.label}: {result.note}" for result in results if result.note]
    tools = ", ".join(dict.fromkeys(result.tool for result in results))
    times = "Times in ms: P50 / P90 / P99. First token, between tokens, whole answer."
    lines.append(f"Measured by {tools}. {times}")
    data = {"url": target.url, "model": target.model, "steps": [r.to_dict() for r in results]}
    title = f"{target.model} at {target.url}" if target.model else target.url
    passed = all(result.completed and not result.failed for result in results)
    return Report(data, [Table(title, COLUMNS, rows)], lines, passed=passed)


def _format_ms(latency: LatencySummary | None) -> str:
    if latency is None:
        return "-"
    ends = (latency.p50, latency.p90, latency.p99)
    return " / ".join("-" if end is None else f"{end:.0f}" for end in ends)
