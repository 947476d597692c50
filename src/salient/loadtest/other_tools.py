"""Load tests by other tools: `vllm bench serve` is run (vLLM 0.32, vllm/benchmarks/serve.py), and
guidellm's benchmarks.json is read (0.7, version 2).

guidellm's `inter_token_latency_ms` is what tpot is here, each request weighing as its tokens do;
its `time_per_output_token_ms` includes the first token and is not used; it has no single gaps. Its
percentiles are values that occurred. Requests that its end cut off are not counted.
"""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from salient.core.errors import RequestError
from salient.core.input_files import parse_json, read_input
from salient.core.progress import Progress

from .plan import API_PATHS, LoadPlan, LoadTarget, base_url, check_plan
from .result import FailureCount, LatencySummary, LoadResult

TOOL = "vllm bench serve"
GUIDELLM = "guidellm's benchmarks.json"
STARTUP = 300.0  # seconds for the tool's slow imports
LARGEST_RESULT = 512 * 2**20  # bytes; guidellm writes every request
MAX_MESSAGE = 500  # characters of its output in an error
_BACKENDS = {"completions": "openai", "chat": "openai-chat"}
ALTERNATIVE = "use the built-in client (--tool salient)"


def run_vllm_bench(
    target: LoadTarget, plan: LoadPlan, progress: Progress, tokenizer: str = ""
) -> list[LoadResult]:
    """Run `plan`, one command per step.

    tokenizer: a folder or Hub id, for a served name that is neither

    Raises RequestError for what the tool cannot do, and where it fails.
    """
    check_plan(plan)
    results: list[LoadResult] = []
    for number, step in enumerate(plan.steps):
        progress(number, len(plan.steps), f"{step.label}, with {TOOL}", "")
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "result.json"
            single = replace(plan, steps=(step,))
            _run(vllm_bench_command(target, single, output, tokenizer), target, single)
            result = load_json(output, f"The result of {TOOL}", f"To do without it, {ALTERNATIVE}.")
            results.append(parse_vllm_bench(result))
    progress(len(plan.steps), len(plan.steps), "load test", "")
    return results


def vllm_bench_command(
    target: LoadTarget, plan: LoadPlan, output: Path, tokenizer: str = ""
) -> list[str]:
    """The command of a plan's first step, which writes JSON to `output`.

    No key is among the arguments, which other users of a machine can read: OPENAI_API_KEY has it.

    Raises RequestError where vllm is not on PATH or cannot run the plan.
    """
    if plan.requests is None:
        raise RequestError(
            f"`{TOOL}` ends after a number of requests, not of seconds. Set requests."
        )
    program = shutil.which("vllm")
    if program is None:
        raise RequestError(
            f"No 'vllm' on PATH. Activate the environment that has it, or {ALTERNATIVE}."
        )
    step = plan.steps[0]
    options: dict[str, object] = {
        "backend": _BACKENDS[target.api],
        "base-url": base_url(target),
        "endpoint": API_PATHS[target.api],
        "model": target.model,
        "dataset-name": "random",
        "random-range-ratio": 0,
        "random-input-len": plan.prompt_tokens,
        "random-output-len": plan.output_tokens,
        "num-prompts": plan.requests,
        "num-warmups": plan.warmups,
        "max-concurrency": step.concurrency,
        "seed": plan.seed,
        "temperature": 0,
        "percentile-metrics": "ttft,tpot,itl,e2el",
        "metric-percentiles": "50,90,99",
        "result-dir": output.parent,
        "result-filename": output.name,
    }
    if tokenizer:
        options["tokenizer"] = tokenizer
    if step.rate is not None:
        options["request-rate"] = f"{step.rate:g}"
    argv = [program, "bench", "serve", "--save-result"]
    argv += ["--ignore-eos"] if plan.ignore_eos else []
    return argv + [text for name, value in options.items() for text in (f"--{name}", str(value))]


def _run(command: list[str], target: LoadTarget, plan: LoadPlan) -> None:
    # No request lasts longer than its own limit; `concurrency` run at a time.
    rounds = -(-(plan.requests or 1) // plan.steps[0].concurrency)
    limit = STARTUP + (plan.seconds or 0) + rounds * target.timeout
    key = {"OPENAI_API_KEY": target.api_key} if target.api_key else {}
    try:
        run = subprocess.run(
            command,
            env={**os.environ, **key},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        late = isinstance(error, subprocess.TimeoutExpired)
        reason = f"no end within {limit:.0f} s" if late else error
        raise RequestError(f"{TOOL} failed ({reason}). Fix it, or {ALTERNATIVE}.") from None
    if run.returncode:
        lines = (run.stderr.strip() or run.stdout.strip() or "no output").splitlines()
        message = re.sub(r"[^ -~]+", " ", lines[-1])[-MAX_MESSAGE:]
        raise RequestError(
            f"{TOOL} ended with exit code {run.returncode}: {message}. Fix its environment, or "
            f"{ALTERNATIVE}."
        )


def load_json(path: Path, place: str, advice: str) -> object:
    try:
        return parse_json(read_input(path, LARGEST_RESULT))
    except (OSError, ValueError) as error:
        raise RequestError(f"{place} cannot be read ({error}). {advice}") from None


@dataclass(frozen=True)
class ToolOutput:
    """A tool's JSON. place: its name in errors   Paths are keys that dots separate."""

    document: object
    place: str

    def at(self, path: str) -> object:
        """The value at `path`; None if it is missing."""
        value = self.document
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def optional(self, path: str) -> float | None:
        """The number from 0 on at `path`; None for anything else."""
        value = self.at(path)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        return value if 0 <= value < 1e18 else None

    def number(self, path: str) -> float:
        if (value := self.optional(path)) is not None:
            return value
        raise RequestError(
            f"{self.place}: {path!r} is not a number of at least 0. Is the file complete, and of "
            "this tool?"
        )

    def count(self, path: str) -> int:
        return int(self.number(path))

    def whole(self, *paths: str) -> int | None:
        """The first number above 0 at one of `paths`."""
        return next((int(number) for path in paths if (number := self.optional(path))), None)

    def failures(self, kind: str, path: str) -> tuple[FailureCount, ...]:
        count = self.count(path)
        return (FailureCount(kind, count, "see the tool's own output"),) if count else ()


def parse_vllm_bench(document: object) -> LoadResult:
    """Raises RequestError. Percentiles that --metric-percentiles left out are None."""
    output = ToolOutput(document, f"The result of {TOOL}")
    completed = output.count("completed")

    def latency(name: str) -> LatencySummary | None:
        if not completed or output.optional(f"mean_{name}_ms") is None:
            return None
        ends = ("mean", "median", "p90", "p99")
        mean, p50, p90, p99 = (output.optional(f"{end}_{name}_ms") for end in ends)
        return LatencySummary(mean, p50, p90, p99)

    return LoadResult(
        tool=TOOL,
        concurrency=output.whole("max_concurrency"),
        rate=output.optional("request_rate"),  # "inf" is a string there
        ttft=latency("ttft"),
        itl=latency("itl"),
        tpot=latency("tpot"),
        e2e=latency("e2el"),
        seconds=output.number("duration"),
        completed=completed,
        input_tokens=output.count("total_input_tokens"),
        output_tokens=output.count("total_output_tokens"),
        failures=output.failures("failed", "failed"),
    )


def parse_guidellm(document: object) -> list[LoadResult]:
    """One result per benchmark. Raises RequestError."""
    benchmarks = ToolOutput(document, GUIDELLM).at("benchmarks")
    if not isinstance(benchmarks, list) or not benchmarks:
        raise RequestError(
            f"{GUIDELLM} has no list 'benchmarks'. Use the file of --output kind=json."
        )
    return [
        _parse_benchmark(ToolOutput(benchmark, f"{GUIDELLM}, benchmark {number}"))
        for number, benchmark in enumerate(benchmarks)
    ]


def _parse_benchmark(output: ToolOutput) -> LoadResult:
    strategy, totals = "config.strategy", "metrics.request_totals"
    completed = output.count(f"{totals}.successful")
    synchronous = output.at(f"{strategy}.type_") == "synchronous"
    streams = output.whole(f"{strategy}.streams", f"{strategy}.max_concurrency")

    def latency(name: str, factor: float = 1.0) -> LatencySummary | None:
        if not completed:
            return None
        ends = ("mean", "percentiles.p50", "percentiles.p90", "percentiles.p99")
        paths = (f"metrics.{name}.successful.{end}" for end in ends)
        mean, p50, p90, p99 = (factor * output.number(path) for path in paths)
        return LatencySummary(mean, p50, p90, p99)

    return LoadResult(
        tool="guidellm",
        concurrency=1 if synchronous else streams,
        rate=output.optional(f"{strategy}.rate"),
        ttft=latency("time_to_first_token_ms"),
        itl=None,
        tpot=latency("inter_token_latency_ms"),
        e2e=latency("request_latency", 1e3),  # seconds there
        seconds=output.number("duration"),
        completed=completed,
        input_tokens=output.count("metrics.prompt_token_count.successful.total_sum"),
        output_tokens=output.count("metrics.output_token_count.successful.total_sum"),
        failures=output.failures("errored", f"{totals}.errored"),
    )
