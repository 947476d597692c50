"""Throughput of `salient doctor --log` on a log of a gigabyte with one cause in its middle.

    python benchmarks/doctor.py [--megabytes 1000] [--json FILE]

Writes logs to a temporary folder and reads each in a child process. Two kinds: `served` has a
server's lines (statistics, requests, starts) with changing numbers; `prompts`, the hard one, has
requests with different texts, as of --enable-log-requests. Exit code 1 if a cause is not found or a
limit is exceeded: 30 s a gigabyte, 200 MB resident.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from machine import conditions, conditions_line
from salient.core.corpus import builtin
from subprocess_run import log_step, run

LOGS = Path(__file__).parent.parent / "tests" / "diagnose" / "logs"
MB = 10**6
SECONDS_PER_GB = 30.0
RESIDENT = 200 * MB
CAUSE = (
    b"(Worker_TP1 pid=4711) WARNING 11-21 03:00:00 [auto_awq.py:325] Layer "
    b"'model.layers.7.mlp.down_proj' is not supported by AutoAWQMarlin. Falling back to "
    b"unoptimized AWQ kernels.\n"
)
CAUSE_ID = "awq-layer-fallback"
READ = (
    "import json, sys, time; from salient.diagnose.log.log_reader import read_log; "
    "start = time.perf_counter(); reading = read_log(sys.argv[1]); "
    "print(json.dumps({'seconds': time.perf_counter() - start, 'lines': reading.facts.lines, "
    "'ids': [finding.id for finding in reading.findings]}))"
)
STATISTICS = (
    "(APIServer pid=27224) INFO 11-21 {hour:02}:{minute:02}:{second:02} [loggers.py:335] Engine "
    "000: Avg prompt throughput: {prompt:.1f} tokens/s, Avg generation throughput: "
    "{generation:.1f} tokens/s, Running: {running} reqs, Waiting: 0 reqs, GPU KV cache usage: "
    "{cache:.1f}%, Prefix cache hit rate: {hits:.1f}%\n"
)
ACCESS = 'INFO:     10.0.0.{host}:{port} - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
REQUEST = (
    "(APIServer pid=27224) INFO 11-21 {hour:02}:{minute:02}:{second:02} [logger.py:45] Received "
    "request chatcmpl-{request:032x}: prompt: {prompt!r}, params: SamplingParams(n=1, "
    "temperature={temperature:.2f}, max_tokens={tokens}), prompt_token_ids: None.\n"
)


def served(numbers: random.Random) -> Iterator[bytes]:
    """An endless log of a server with restarts, in pieces."""
    start = (LOGS / "healthy_serve.txt").read_bytes()
    start = start[: start.index(b"INFO:     127.0.0.1")]
    while True:
        yield start
        for _ in range(400):
            yield _minute(numbers).encode()


def _minute(numbers: random.Random) -> str:
    lines = []
    for second in range(0, 60, 10):
        clock = {"hour": numbers.randrange(24), "minute": numbers.randrange(60), "second": second}
        lines.append(
            STATISTICS.format(
                **clock,
                prompt=numbers.random() * 4000,
                generation=numbers.random() * 900,
                running=numbers.randrange(64),
                cache=numbers.random() * 80,
                hits=numbers.random() * 60,
            )
        )
        lines += [
            ACCESS.format(host=numbers.randrange(256), port=numbers.randrange(32768, 61000))
            for _ in range(numbers.randrange(1, 12))
        ]
    return "".join(lines)


def prompts(numbers: random.Random) -> Iterator[bytes]:
    """Requests with their prompts; all lines differ."""
    vocabulary = " ".join(document.text for document in builtin("calibration")).split()
    while True:
        at = numbers.randrange(len(vocabulary) - 400)
        text = " ".join(vocabulary[at : at + numbers.randrange(20, 400)])
        yield REQUEST.format(
            hour=numbers.randrange(24),
            minute=numbers.randrange(60),
            second=numbers.randrange(60),
            request=numbers.getrandbits(128),
            prompt=text,
            temperature=numbers.random(),
            tokens=numbers.randrange(4096),
        ).encode()


KINDS = {"served": served, "prompts": prompts}


def write(path: Path, kind: str, size: int) -> None:
    """Write a log of about `size` bytes with the cause in its middle."""
    pieces, written, hidden = KINDS[kind](random.Random(0)), 0, False
    with path.open("wb") as out:
        while written < size:
            written += out.write(next(pieces))
            if written > size / 2 and not hidden:
                hidden = True
                written += out.write(CAUSE)


def measure(kind: str, megabytes: int, folder: Path) -> dict[str, Any]:
    """Write a log, and measure reading it in a child process."""
    path = folder / f"{kind}.log"
    log_step(f"writing {path.name}, {megabytes} MB")
    write(path, kind, megabytes * MB)
    size = path.stat().st_size
    done = run([sys.executable, "-c", READ, str(path)], folder / f"{kind}.err")
    path.unlink()
    outcome = json.loads(done.out)
    return {
        "kind": kind,
        "megabytes": round(size / MB, 1),
        "lines": outcome["lines"],
        "seconds": round(outcome["seconds"], 2),
        "megabytes_a_second": round(size / MB / outcome["seconds"], 1),
        "found": CAUSE_ID in outcome["ids"],
        "fast_enough": outcome["seconds"] <= SECONDS_PER_GB * size / 10**9,
        "small_enough": done.peak_bytes <= RESIDENT,
    } | done.cost()


def show(rows: list[dict[str, Any]]) -> None:
    table = Table("log", "MB", "lines", "seconds", "MB/s", "peak MB", "cause", title="doctor --log")
    for row in rows:
        table.add_row(
            row["kind"],
            f"{row['megabytes']:,.0f}",
            f"{row['lines']:,}",
            f"{row['seconds']:.1f}",
            f"{row['megabytes_a_second']:.0f}",
            f"{row['peak_bytes'] / MB:.0f}",
            "found" if row["found"] else "MISSED",
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(kind, args.megabytes, Path(folder)) for kind in KINDS]
    environment = conditions()
    show(rows)
    print(conditions_line(environment))
    if args.json:
        args.json.write_text(json.dumps(environment | {"logs": rows}, indent=2) + "\n")
    if not all(row["found"] and row["fast_enough"] and row["small_enough"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
