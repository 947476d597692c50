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
answers for it (`servers.py`), and the environment stays as it is.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import conditions
from salient.core.progress import silent
from salient.loadtest.load_runner import run_load
from salient.loadtest.other_tools import run_vllm_bench
from salient.loadtest.plan import LoadPlan, LoadStep, LoadTarget
from salient.loadtest.result import LoadResult
from salient.models.model_folder import model_folder
from salient.models.tokens import load_tokenizer
from servers import CORES, NAME, Setting, started

BAR = 0.10  # of the other's figure
SPREADS, ENDS = ("ttft", "itl", "e2e"), ("p50", "p90", "p99")


def main() -> None:
    """Measure, compare, tell."""
    given = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder)
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
    """All rows of one server, which has a core of its own."""
    model = given.checkpoint if name == "salient" else str(model_folder(given.model))
    setting = Setting(1024, 8, given.vllm, threads=1, cores=(CORES[0],), dtype="float32")
    with started(name, model, setting, shim) as server:
        return [
            row
            for words in given.concurrency.split(",")
            for row in _compared(name, server.url, LoadStep(int(words)), given, shim)
        ]


def _compared(
    name: str, url: str, step: LoadStep, given: argparse.Namespace, shim: Path
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
                # vLLM's warms up with the first prompt that it measures, and our engine, whose
                # prefixes are always kept, would have it ready
                warmups=0 if name == "salient" else 2,
            )
            target = LoadTarget(url, NAME)
            if tool == "vllm":
                results += run_vllm_bench(target, plan, silent, tokenizer=str(folder))
            else:
                results += run_load(target, plan, silent, lambda t: len(tokenizer(t).input_ids))
            print(f"{name}, {step.label}, {tool}: {results[-1].summary}", file=sys.stderr)
    return [_row(name, step, spread, end, found) for spread in SPREADS for end in ENDS]


def _row(
    name: str, step: LoadStep, spread: str, end: str, found: dict[str, list[LoadResult]]
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
