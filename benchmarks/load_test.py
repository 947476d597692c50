"""Our load test held against `vllm bench serve`, on the same server, in turn.

Both clients measure each server with the same number of requests, tokens and requests at once, one
after the other, several times; what is compared is the median over the rounds of each percentile.
How much the other client differs from itself, round by round, is told beside it: on a machine with
other work, no two clients agree closer than that.
Servers: vLLM's CPU build on a 16-bit model, and Salient's own on a checkpoint. Server and clients
each have a core of their own where `taskset` is there.

    PYTHON=$(interop/environment.sh vllm)
    .venv/bin/python benchmarks/load_test.py --vllm $PYTHON \\
        --model MODEL --checkpoint CHECKPOINT

`vllm bench serve` of the CPU build asks for metadata that its package has not: a shim on PYTHONPATH
answers for it, and the environment stays as it is.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from machine import conditions
from salient.awq.calibration import load_tokenizer
from salient.core.progress import silent
from salient.evals.load.latencies import LoadResult
from salient.evals.load.plans import LoadPlan, Step, Target
from salient.evals.load.tools import run_with
from salient.models.source import model_folder

NAME = "served"
BAR = 0.10  # of the other's figure
SPREADS, ENDS = ("ttft", "itl", "e2e"), ("p50", "p90", "p99")
READY_SECONDS = 300
CORES = sorted(os.sched_getaffinity(0))
SHIM = """
import importlib.metadata as metadata
_version = metadata.version
metadata.version = lambda name: "0.32.0+cpu" if name == "vllm" else _version(name)
"""


def main() -> None:
    """Measure, compare, tell."""
    given = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder)
        (shim / "sitecustomize.py").write_text(SHIM)
        rows = [row for name in given.servers.split(",") for row in _server(name, given, shim)]
    print(_table(rows))
    worst = max(abs(row["ratio"] - 1) for row in rows)
    print(json.dumps({**conditions(), "rows": rows, "worst": worst, "bar": BAR}, indent=2))
    sys.exit(worst > BAR)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", required=True, help="Python of the environment that has vLLM")
    parser.add_argument("--model", default="smollm2-135m", help="16-bit, for vLLM's server")
    parser.add_argument("--checkpoint", required=True, help="4-bit, for Salient's server")
    parser.add_argument("--servers", default="vllm,salient")
    parser.add_argument("--concurrency", default="1,4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=32)
    return parser.parse_args()


def _server(name: str, given: argparse.Namespace, shim: Path) -> list[dict[str, Any]]:
    """All rows of one server."""
    with _started(name, given, shim) as url:
        return [
            row
            for words in given.concurrency.split(",")
            for row in _compared(name, url, Step(int(words)), given, shim)
        ]


@contextlib.contextmanager
def _started(name: str, given: argparse.Namespace, shim: Path) -> Iterator[str]:
    """A server, for as long as the block lasts."""
    model, port = str(model_folder(given.model)), 8200 + (name == "salient")
    if name == "vllm":
        module = "vllm.entrypoints.openai.api_server"
        command = [given.vllm, "-m", module, "--model", model, "--served-model-name", NAME]
        command += ["--port", str(port), "--max-model-len", "1024", "--dtype", "float32"]
        command += ["--enforce-eager", "--no-enable-prefix-caching"]  # warm-up knows a prompt
    else:
        command = [
            sys.executable,
            "-m",
            "salient",
            "serve",
            given.checkpoint,
            "--engine",
            "embedded",
        ]
        command += ["--port", str(port), "--served-model-name", NAME]
        command += ["--max-concurrency", "8", "--max-context", "1024"]
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(shim),
    }
    log = (shim / f"{name}.log").open("wb")
    child = subprocess.Popen(_pinned(CORES[0], command), env=environment, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/v1/models", child, shim / f"{name}.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        child.terminate()
        try:
            child.wait(timeout=30)
        except subprocess.TimeoutExpired:
            child.kill()


def _pinned(core: int, command: list[str]) -> list[str]:
    several = len(CORES) > 1 and shutil.which("taskset")
    return ["taskset", "-c", str(core), *command] if several else command


def _wait(url: str, child: subprocess.Popen, log: Path) -> None:
    last = time.monotonic() + READY_SECONDS
    while time.monotonic() < last and child.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.5)
    sys.exit(f"{url} did not come up:\n{log.read_text(errors='replace')[-3000:]}")


def _compared(
    name: str, url: str, step: Step, given: argparse.Namespace, shim: Path
) -> list[dict[str, Any]]:
    """Rounds of both clients in turn; a row for each percentile."""
    folder = model_folder(given.model)
    tokenizer = load_tokenizer(folder)
    found: dict[str, list[LoadResult]] = {"salient": [], "vllm": []}
    os.sched_setaffinity(0, {CORES[-1]})
    path = f"{Path(given.vllm).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.update(PATH=path, PYTHONPATH=str(shim))
    for number in range(given.rounds):
        for tool, results in found.items():
            plan = LoadPlan(
                (step,),
                given.requests,
                prompt_tokens=given.prompt_tokens,
                output_tokens=given.new_tokens,
                seed=2 * number + (tool == "vllm"),
            )
            results += run_with(
                tool,
                Target(url, NAME),
                plan,
                silent,
                tokenizer=str(folder),
                count_tokens=lambda text: len(tokenizer(text).input_ids),
            )
            print(f"{name}, {step.words}, {tool}: {results[-1].words}", file=sys.stderr)
    return [_row(name, step, spread, end, found) for spread in SPREADS for end in ENDS]


def _row(
    name: str, step: Step, spread: str, end: str, found: dict[str, list[LoadResult]]
) -> dict[str, Any]:
    values = {
        tool: [getattr(getattr(result, spread), end) for result in results]
        for tool, results in found.items()
    }
    ours, theirs = (statistics.median(values[tool]) for tool in ("salient", "vllm"))
    return {
        "server": name,
        "concurrency": step.concurrency,
        "what": f"{spread} {end}",
        "ours_ms": ours,
        "theirs_ms": theirs,
        "ratio": ours / theirs,
        "wavers": max(values["vllm"]) / min(values["vllm"]) - 1,
        "rounds": values,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| server | at once | what | ours, ms | vllm bench serve, ms | ratio | it wavers by |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['server']} | {row['concurrency']} | {row['what']} | {row['ours_ms']:.1f} | "
        f"{row['theirs_ms']:.1f} | {row['ratio']:.3f} | {row['wavers']:.0%} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
