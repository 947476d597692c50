"""`salient load-test` and `vllm bench serve` on the same server, in turn.

Both clients measure each server with the same requests, tokens and concurrency, alternately and
several times. Compared are the medians over the rounds of each percentile. The table also has the
spread of `vllm bench serve` over the rounds: on a shared machine, two clients cannot agree more
closely. Servers: vLLM's CPU build on a 16-bit model, and Salient's on a checkpoint. With `taskset`,
server and clients have one core each.

    PYTHON=$(interop/environment.sh vllm)
    .venv/bin/python benchmarks/load_test.py --vllm $PYTHON \\
        --model MODEL --checkpoint CHECKPOINT

`vllm bench serve` of the CPU build requires metadata that its package lacks: a shim on PYTHONPATH
supplies it (`servers.py`).
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
from servers import CORES, NAME, Setting, running_server

BAR = 0.10  # relative difference
SPREADS, ENDS = ("ttft", "itl", "e2e"), ("p50", "p90", "p99")


def main() -> None:
    """Measure, compare, report."""
    options = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        shim = Path(folder)
        rows = [row for name in options.servers.split(",") for row in _server(name, options, shim)]
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


def _server(name: str, options: argparse.Namespace, shim: Path) -> list[dict[str, Any]]:
    """All rows of one server, on its own core."""
    model = options.checkpoint if name == "salient" else str(model_folder(options.model))
    setting = Setting(1024, 8, options.vllm, threads=1, cores=(CORES[0],), dtype="float32")
    with running_server(name, model, setting, shim) as server:
        return [
            row
            for concurrency in options.concurrency.split(",")
            for row in _compared(name, server.url, LoadStep(int(concurrency)), options, shim)
        ]


def _compared(
    name: str, url: str, step: LoadStep, options: argparse.Namespace, shim: Path
) -> list[dict[str, Any]]:
    """Run both clients alternately; a row for each percentile."""
    folder = model_folder(options.model)
    tokenizer = load_tokenizer(folder)
    results_of: dict[str, list[LoadResult]] = {"salient": [], "vllm": []}
    os.sched_setaffinity(0, {CORES[-1]})
    path = f"{Path(options.vllm).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ.update(PATH=path, PYTHONPATH=str(shim))
    for number in range(options.rounds):
        for tool, results in results_of.items():
            plan = LoadPlan(
                (step,),
                options.requests,
                prompt_tokens=options.prompt_tokens,
                output_tokens=options.new_tokens,
                seed=2 * number + (tool == "vllm"),
                # vLLM's client warms up with the first prompt that it measures, which our engine
                # would have in its prefix cache
                warmups=0 if name == "salient" else 2,
            )
            target = LoadTarget(url, NAME)
            if tool == "vllm":
                results += run_vllm_bench(target, plan, silent, tokenizer=str(folder))
            else:
                results += run_load(target, plan, silent, lambda t: len(tokenizer(t).input_ids))
            print(f"{name}, {step.label}, {tool}: {results[-1].summary}", file=sys.stderr)
    return [_row(name, step, spread, end, results_of) for spread in SPREADS for end in ENDS]


def _row(
    name: str, step: LoadStep, spread: str, end: str, results_of: dict[str, list[LoadResult]]
) -> dict[str, Any]:
    values = {
        tool: [getattr(getattr(result, spread), end) for result in results]
        for tool, results in results_of.items()
    }
    ours, theirs = (statistics.median(values[tool]) for tool in ("salient", "vllm"))
    return {
        "server": name,
        "concurrency": step.concurrency,
        "what": f"{spread} {end}",
        "ours_ms": ours,
        "theirs_ms": theirs,
        "ratio": ours / theirs,
        "spread": max(values["vllm"]) / min(values["vllm"]) - 1,
        "rounds": values,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| server | concurrency | measure | salient, ms | vllm bench serve, ms | ratio | spread |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['server']} | {row['concurrency']} | {row['what']} | {row['ours_ms']:.1f} | "
        f"{row['theirs_ms']:.1f} | {row['ratio']:.3f} | {row['spread']:.0%} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
