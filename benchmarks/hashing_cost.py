"""What hashing the whole content costs: `salient quantize` of the demo with and without it.

    .venv/bin/python benchmarks/hashing_cost.py [--rounds 3] [--samples 16]

Runs with and without alternate, each a process with an empty memory of digests. Without, no file
and no tensor is read to be hashed. Compared is processor time, which other work on the machine
changes little, and wall time; also the share of hashing itself, by the clocks of its threads. The
bar: 5 % of a run, by the median over adjacent runs. Exit code 1 if it is missed.
"""

import argparse
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from machine import conditions, conditions_line
from salient import api
from salient.awq import source_watch
from salient.core import content_digest
from subprocess_run import log_step, run

BAR = 1.05
SCHEME = "w4-g64"  # the demo's width takes no larger group
SEQUENCE_LENGTH = 512


def quantize(samples: int, *, hashing: bool) -> dict[str, Any]:
    """Quantize the demo in this process; its cost."""
    with tempfile.TemporaryDirectory() as place:
        content_digest.cache_folder = lambda: Path(place)
        hashed = [0.0]
        if hashing:
            content_digest.hashlib.file_digest = timed(hashlib.file_digest, hashed)
            source_watch.tensor_digests = timed(content_digest.tensor_digests, hashed)
        else:
            constant = SimpleNamespace(hexdigest=lambda: "0" * 64)
            content_digest.hashlib.file_digest = lambda *_: constant
            source_watch.tensor_digests = lambda _: {}
        started, before = time.perf_counter(), os.times()
        options = {"scheme": SCHEME, "samples": samples, "sequence_length": SEQUENCE_LENGTH}
        api.quantize("smollm2-135m", Path(place) / "out", effort="fast", **options)
        after = os.times()
        used = after.user + after.system - before.user - before.system
        seconds = time.perf_counter() - started
        return {"cpu_seconds": used, "seconds": seconds, "hashing_cpu_seconds": hashed[0]}


def timed(call: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    """`call`, whose processor time in its own thread is added to `total[0]`."""

    def measured(*arguments: Any) -> Any:
        before = time.thread_time()
        try:
            return call(*arguments)
        finally:
            total[0] += time.thread_time() - before

    return measured


def main() -> int:
    """Alternate both, report; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--child", choices=("with", "without"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(quantize(options.samples, hashing=options.child == "with")))
        return 0
    log = Path(tempfile.gettempdir()) / "hashing_cost.log"
    ratios: dict[str, list[float]] = {"cpu_seconds": [], "seconds": []}
    shares: list[float] = []
    for number in range(options.rounds):
        sides = ("with", "without") if number % 2 else ("without", "with")
        costs = {}
        for side in sides:
            command = [sys.executable, __file__, "--samples", str(options.samples)]
            costs[side] = json.loads(run([*command, "--child", side], log).out.splitlines()[-1])
            log_step(f"{side}: {costs[side]}")
        shares.append(costs["with"]["hashing_cpu_seconds"] / costs["with"]["cpu_seconds"])
        for key, values in ratios.items():
            values.append(costs["with"][key] / costs["without"][key])
    for key, values in ratios.items():
        shown = ", ".join(f"{value:.3f}" for value in values)
        print(f"{key}, with over without: {shown}; median {statistics.median(values):.3f}")
    print(f"share of hashing itself: {', '.join(f'{share:.2%}' for share in shares)}")
    print(conditions_line(conditions()))
    return 0 if statistics.median(ratios["cpu_seconds"]) <= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
