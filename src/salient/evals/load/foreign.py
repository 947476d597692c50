"""Load tests of others: their command lines, and their results in our format.

vllm bench serve   vLLM 0.32 (vllm/benchmarks/serve.py), the JSON of --save-result
guidellm run       guidellm 0.7 (src/guidellm/benchmark/schemas), benchmarks.json version 2

Nothing is run here.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from salient.core.errors import RequestError

from .latencies import Failure, LoadResult, Spread, Totals
from .plans import PATHS, LoadPlan, Step, Target, base_url, check_plan

_BACKENDS = {"completions": "openai", "chat": "openai-chat"}
_UNTOLD = "the tool does not say how; see its own output"


def foreign_command(
    tool: str, target: Target, plan: LoadPlan, output: Path, tokenizer: str = ""
) -> list[str]:
    """The arguments that make `tool`, "vllm" or "guidellm", run `plan`, which has one step.

    output: the JSON file to write; tokenizer: a folder or Hub id, where the model's name is none

    No key stands in the arguments, which other users of a machine can read: `vllm bench serve`
    takes it from OPENAI_API_KEY, guidellm only from its arguments.

    Raises RequestError for a tool that is not on PATH or cannot do what is asked.
    """
    if tool not in _MAKERS:
        raise RequestError(
            f"{tool[:40]!r} is no load test known here. Known: {', '.join(_MAKERS)}."
        )
    check_plan(plan)
    if len(plan.steps) != 1:
        raise RequestError(f"{tool} runs one step a command; the plan has {len(plan.steps)}.")
    found = shutil.which(tool)
    if found is None:
        raise RequestError(
            f"No {tool!r} on PATH. Activate the environment that has it, or use the built-in load "
            "test."
        )
    return [found, *_MAKERS[tool](target, plan, output, tokenizer)]


def _vllm(target: Target, plan: LoadPlan, output: Path, tokenizer: str) -> list[str]:
    if plan.requests is None:
        raise RequestError(
            "`vllm bench serve` ends after a number of requests, not of seconds. Give requests."
        )
    step = plan.steps[0]
    words = ["bench", "serve", "--backend", _BACKENDS[target.api]]
    words += ["--base-url", base_url(target), "--endpoint", f"/v1{PATHS[target.api]}"]
    words += ["--model", target.model, *(["--tokenizer", tokenizer] if tokenizer else [])]
    words += ["--dataset-name", "random", "--random-range-ratio", "0"]
    words += ["--random-input-len", str(plan.prompt_tokens)]
    words += ["--random-output-len", str(plan.output_tokens)]
    words += ["--num-prompts", str(plan.requests), "--num-warmups", str(plan.warmups)]
    words += ["--max-concurrency", str(step.concurrency), "--seed", str(plan.seed)]
    if step.rate is not None:
        burstiness = "1" if step.arrivals == "poisson" else "inf"
        words += ["--request-rate", f"{step.rate:g}", "--burstiness", burstiness]
    words += ["--temperature", "0", *(["--ignore-eos"] if plan.ignore_eos else [])]
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99"]
    words += ["--save-result", "--result-dir", str(output.parent)]
    return [*words, "--result-filename", output.name]


def _guidellm(target: Target, plan: LoadPlan, output: Path, tokenizer: str) -> list[str]:
    if target.api_key:
        raise RequestError(
            "guidellm takes an API key only as an argument, where others can read it. Use the "
            "built-in load test or `vllm bench serve`."
        )
    backend = {
        "kind": "openai_http",
        "target": base_url(target),
        "model": target.model,
        "request_format": f"/v1{PATHS[target.api]}",
    }
    data = {
        "kind": "synthetic_text",
        "prompt_tokens": plan.prompt_tokens,
        "output_tokens": plan.output_tokens,
    }
    options: list[tuple[str, dict[str, Any]]] = [("backend", backend), ("data", data)]
    options.append(("profile", _profile(plan.steps[0])))
    if plan.requests is not None:
        options.append(("constraint", {"kind": "max_requests", "count": plan.requests}))
    if plan.seconds is not None:
        options.append(("constraint", {"kind": "max_duration", "seconds": plan.seconds}))
    options.append(("seed", {"kind": "static", "value": plan.seed}))
    if tokenizer:
        options.append(("tokenizer", {"kind": "huggingface_auto", "model": tokenizer}))
    options.append(("output", {"kind": "json", "path": str(output)}))
    return ["run", *(w for name, given in options for w in (f"--{name}", json.dumps(given)))]


def _profile(step: Step) -> dict[str, Any]:
    if step.rate is None:
        return {"kind": "concurrent", "streams": step.concurrency}
    return {"kind": step.arrivals, "rate": step.rate, "max_concurrency": step.concurrency}


_MAKERS: dict[str, Callable[[Target, LoadPlan, Path, str], list[str]]] = {
    "vllm": _vllm,
    "guidellm": _guidellm,
}


def from_vllm_bench(found: dict[str, Any]) -> LoadResult:
    """The result that `vllm bench serve --save-result` wrote. Raises RequestError.

    Percentiles that --metric-percentiles did not ask for are None.
    """
    where = "The result of vllm bench serve"
    completed, failed = (int(_number(found, key, where)) for key in ("completed", "failed"))

    def read(name: str) -> Spread | None:
        if not completed or f"mean_{name}_ms" not in found:
            return None
        keys = (f"mean_{name}_ms", f"median_{name}_ms", f"p90_{name}_ms", f"p99_{name}_ms")
        return Spread(*(_optional(found, k) for k in keys))

    return LoadResult(
        tool="vllm bench serve",
        concurrency=_optional(found, "max_concurrency"),
        rate=_optional(found, "request_rate"),  # "inf" is a string there
        totals=Totals(
            seconds=_number(found, "duration", where),
            completed=completed,
            input_tokens=int(_number(found, "total_input_tokens", where)),
            output_tokens=int(_number(found, "total_output_tokens", where)),
            failures=(Failure("failed", failed, _UNTOLD),) if failed else (),
        ),
        ttft=read("ttft"),
        itl=read("itl"),
        tpot=read("tpot"),
        e2e=read("e2el"),
    )


def from_guidellm(found: dict[str, Any]) -> list[LoadResult]:
    """The results of guidellm's benchmarks.json, one a benchmark. Raises RequestError.

    Its `inter_token_latency_ms` is what tpot is here, each request weighing as its tokens do; its
    `time_per_output_token_ms` holds the first token too and is left out; single gaps it does not
    tell. Its percentiles are values that occurred. Requests that its end cut off are not counted.
    """
    where = "guidellm's benchmarks.json"
    benchmarks = found.get("benchmarks") if isinstance(found, dict) else None
    if not isinstance(benchmarks, list):
        raise RequestError(
            f"{where} has no list 'benchmarks'. Give the file of --output kind=json."
        )
    return [_benchmark(each, f"{where}, benchmark {n}") for n, each in enumerate(benchmarks)]


def _benchmark(found: Any, where: str) -> LoadResult:
    metrics = _part(found, "metrics", where)
    totals = _part(metrics, "request_totals", where)
    completed, failed = (int(_number(totals, key, where)) for key in ("successful", "errored"))

    def good(name: str) -> dict[str, Any]:
        return _part(_part(metrics, name, where), "successful", where)

    def read(name: str, factor: float = 1.0) -> Spread | None:
        if not completed:
            return None
        values, shares = good(name), _part(good(name), "percentiles", where)
        return Spread(
            factor * _number(values, "mean", where),
            *(factor * _number(shares, key, where) for key in ("p50", "p90", "p99")),
        )

    strategy = _part(_part(found, "config", where), "strategy", where)
    streams = _optional(strategy, "streams") or _optional(strategy, "max_concurrency")
    return LoadResult(
        tool="guidellm",
        concurrency=1 if strategy.get("type_") == "synchronous" else streams,
        rate=_optional(strategy, "rate"),
        totals=Totals(
            seconds=_number(found, "duration", where),
            completed=completed,
            input_tokens=int(_number(good("prompt_token_count"), "total_sum", where)),
            output_tokens=int(_number(good("output_token_count"), "total_sum", where)),
            failures=(Failure("errored", failed, _UNTOLD),) if failed else (),
        ),
        ttft=read("time_to_first_token_ms"),
        itl=None,
        tpot=read("inter_token_latency_ms"),
        e2e=read("request_latency", 1e3),  # seconds there
    )


def _part(found: Any, key: str, where: str) -> dict[str, Any]:
    part = found.get(key) if isinstance(found, dict) else None
    if not isinstance(part, dict):
        raise RequestError(f"{where}: no object {key!r}. Is the file whole, and of this tool?")
    return part


def _number(found: Any, key: str, where: str) -> float:
    value = _optional(found, key) if isinstance(found, dict) else None
    if value is None:
        raise RequestError(
            f"{where}: {key!r} is no number from 0 on. Is the file whole, and of this tool?"
        )
    return value


def _optional(found: dict[str, Any], key: str) -> Any:
    """A number from 0 on; None for what is none."""
    value: Any = found.get(key)
    return value if type(value) in (int, float) and 0 <= value < 1e18 else None
