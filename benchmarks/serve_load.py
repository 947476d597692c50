"""`salient serve` under load, and vLLM's CPU build on the same checkpoint.

    .venv/bin/python benchmarks/serve_load.py --checkpoint CHECKPOINT
    .venv/bin/python benchmarks/serve_load.py --checkpoint CHECKPOINT --vllm PYTHON

For each server, one after the other, as a process with all cores:

one        one client with sequential requests
many       32 clients at once for three minutes; memory is read once a second
disorder   32 clients; 20 % of requests are aborted at a random time, 5 % are invalid

The bars, for Salient: only aborted and invalid requests fail, none is stuck; resident memory grows
by less than 5 % after the first third of `many`; its throughput is at least 3 times that of one
client. vLLM has no bars. Writes WORK/serve_load.json. Exit code 1 if a bar is missed.
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console

from machine import conditions, conditions_line
from salient.core.report import Report, Table
from salient.loadtest.client import LoadClient
from salient.loadtest.load_runner import run_load
from salient.loadtest.plan import LoadPlan, LoadStep, LoadTarget, cut_excerpts, numbered
from salient.loadtest.result import LoadResult
from salient.models.tokens import load_tokenizer
from servers import NAME, RunningServer, Setting, running_server
from subprocess_run import log_step

MANY = 32
GROWTH_BAR, RATIO_BAR = 0.05, 3.0
ABORTED, INVALID = 0.20, 0.05
STUCK_SECONDS = 120.0
CONTEXT = 1024


def main() -> None:
    """Measure, compare with the bars, report."""
    options = _arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in ("salient", *(["vllm"] if options.vllm else [])):
        setting = Setting(CONTEXT, MANY, options.vllm)
        with running_server(name, options.checkpoint, setting, options.work) as server:
            results[name] = _measured(name, server, options)
    settings = {name: str(value) for name, value in vars(options).items()}
    data = {**conditions(), "options": settings, "servers": results}
    data["missed"] = _missed(results["salient"])
    (options.work / "serve_load.json").write_text(json.dumps(data, indent=2) + "\n")
    _report(data).show(Console(width=110))
    sys.exit(bool(data["missed"]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="a folder")
    parser.add_argument("--vllm", default="", help="Python of the environment that has vLLM")
    parser.add_argument("--seconds", type=int, default=180, help="of the phase with 32 clients")
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--work", type=Path, default=Path(".work/bench/serve"))
    return parser.parse_args()


def _measured(name: str, server: RunningServer, options: argparse.Namespace) -> dict[str, Any]:
    """All phases of one server."""
    one = _phase(server, options, 1, options.seconds // 4, seed=1)
    log_step(f"{name}, one: {one.summary}")
    with _Memory(server.pid) as memory:
        many = _phase(server, options, MANY, options.seconds, seed=2)
    log_step(f"{name}, many: {many.summary}")
    disorder = asyncio.run(_disorder(server, options, options.seconds // 2))
    log_step(f"{name}, disorder: {disorder}")
    third = len(memory.bytes) // 3
    middle, last = (memory.bytes[n * third : (n + 1) * third] for n in (1, 2))
    return {
        "one": one.to_dict(),
        "many": many.to_dict(),
        "ratio": many.output_rate / one.output_rate,
        "disorder": disorder,
        "memory_bytes": memory.bytes,
        "memory_growth": statistics.median(last) / statistics.median(middle) - 1,
        "memory_peak_bytes": max(memory.bytes),
    }


def _plan(options: argparse.Namespace, clients: int, seconds: int, seed: int) -> LoadPlan:
    return LoadPlan(
        (LoadStep(clients),),
        requests=None,
        seconds=seconds,
        warmups=clients,
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.new_tokens,
        seed=seed,
    )


def _target(server: RunningServer) -> LoadTarget:
    return LoadTarget(server.url, NAME, timeout=STUCK_SECONDS)


def _phase(
    server: RunningServer, options: argparse.Namespace, clients: int, seconds: int, seed: int
) -> LoadResult:
    """`clients` at once for `seconds`; a request that takes STUCK_SECONDS fails."""
    tokenizer = load_tokenizer(Path(options.checkpoint))
    plan = _plan(options, clients, seconds, seed)
    (result,) = run_load(
        _target(server), plan, count_tokens=lambda text: len(tokenizer(text).input_ids)
    )
    return result


class _Memory:
    """Resident bytes of a process and its descendants, read once a second."""

    def __init__(self, pid: int):
        self.pid, self.bytes = pid, []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "_Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self.bytes.append(sum(map(_resident, _family(self.pid))))


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in _family(int(child)))]


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * 4096


async def _disorder(
    server: RunningServer, options: argparse.Namespace, seconds: int
) -> dict[str, int]:
    """Counts of requests by how they ended, while some are aborted and some are invalid."""
    target, chance = _target(server), random.Random(3)
    load = LoadClient(target, _plan(options, MANY, seconds, 3))
    excerpts = cut_excerpts("", options.prompt_tokens // 2, 3)
    counts: Counter[str] = Counter()
    last = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < last:
            prompt, drawn = (
                numbered(chance.choice(excerpts), chance.randrange(10**9)),
                chance.random(),
            )
            if drawn < INVALID:
                counts[f"invalid: {await _send_invalid(load, prompt, chance)}"] += 1
            elif drawn < INVALID + ABORTED:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(chance.uniform(0, 3)):
                        await load.send(prompt)
                counts["aborted"] += 1
            else:
                timing = await load.send(prompt)
                counts[
                    f"failed: {timing.failure} {timing.message}" if timing.failure else "fine"
                ] += 1

    async with load.http:
        await asyncio.gather(*(client() for _ in range(MANY)))
    return dict(counts)


async def _send_invalid(load: LoadClient, prompt: str, chance: random.Random) -> str:
    """The status of a request with changed bytes, a truncated body, or random bytes."""
    body = bytearray(load.payload(prompt))
    kind = chance.randrange(3)
    if kind == 0:
        for _ in range(20):
            body[chance.randrange(len(body))] = chance.randrange(256)
    elif kind == 1:
        del body[chance.randrange(len(body)) :]
    else:
        body = bytearray(chance.randbytes(2000))
    try:
        async with asyncio.timeout(STUCK_SECONDS):
            async with load.http.stream("POST", load.url, content=bytes(body)) as response:
                return str(response.status_code)
    except (httpx2.HTTPError, TimeoutError) as error:
        return type(error).__name__


def _missed(results: dict[str, Any]) -> list[str]:
    """The bars that Salient misses, as text."""
    missed = []
    if results["many"]["failed"] or results["one"]["failed"]:
        missed.append(f"failures: {results['many']['failures']}")
    if results["ratio"] < RATIO_BAR:
        missed.append(f"{MANY} clients have {results['ratio']:.2f} times the throughput of one")
    if results["memory_growth"] > GROWTH_BAR:
        missed.append(f"memory grows by {results['memory_growth']:.1%}")
    wrong = [k for k in results["disorder"] if k.startswith("failed") or k.startswith("invalid: 5")]
    return missed + wrong


def _report(data: dict[str, Any]) -> Report:
    """A row per server and phase, then memory and disorder."""
    rows, more = [], []
    for name, results in data["servers"].items():
        for phase in ("one", "many"):
            step = results[phase]
            times = [f"{step[k]['p50']:.0f} / {step[k]['p99']:.0f}" for k in ("ttft", "itl", "e2e")]
            rate = f"{step['output_tokens_per_second']:.1f}"
            rows.append((name, phase, str(step["requests"]), str(step["failed"]), rate, *times))
        peak = f"{results['memory_peak_bytes'] / 2**20:.0f} MiB"
        ended = ", ".join(f"{v} {k}" for k, v in sorted(results["disorder"].items()))
        growth = f"{results['memory_growth']:+.1%}"
        more.append((name, f"{results['ratio']:.2f}", peak, growth, ended))
    columns = ("server", "phase", "requests", "failed", "tokens/s", "ttft", "itl", "e2e")
    tables = [
        Table("Load: milliseconds, P50 / P99", columns, rows),
        Table("", ("server", "many / one", "peak memory", "growth", "disorder"), more),
    ]
    missed = data["missed"] or ["All bars are met."]
    return Report(data, tables, [*missed, conditions_line(data)])


if __name__ == "__main__":
    main()
