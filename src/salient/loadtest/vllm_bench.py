"""Runs a load test with `vllm bench serve` (vLLM 0.32, vllm/benchmarks/serve.py)."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from salient.core.errors import RequestError
from salient.core.progress import Progress

from .plan import API_PATHS, LoadPlan, LoadTarget, base_url, check_plan
from .result import LoadResult
from .tool_results import VLLM_BENCH as TOOL
from .tool_results import load_json, parse_vllm_bench

STARTUP = 300.0  # seconds for the tool's slow imports
MAX_MESSAGE = 500  # characters of its output in an error
_BACKENDS = {"completions": "openai", "chat": "openai-chat"}
ALTERNATIVE = "use the built-in client (--tool salient)"


def run_vllm_bench(
    target: LoadTarget, plan: LoadPlan, progress: Progress, tokenizer: str = ""
) -> list[LoadResult]:
    """Run `plan`, one command per step.

    tokenizer: a folder or Hub id, where the model's name is none

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
