"""Mutated logs: read or refused, and never clean if they hold a crash."""

import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from salient.core.errors import RequestError
from salient.diagnose.finding import BAD
from salient.diagnose.log.line_prefix import read_line
from salient.diagnose.log.log_reader import LogReading, read_stream

FOLDER = Path(__file__).parent / "field" / "logs"
LOGS = {path.stem: path.read_bytes() for path in sorted(FOLDER.glob("*.log"))}
FAILED = sorted(name for name in LOGS if name[0] == "c" and name[:3] not in ("c01", "c42"))
# what a crash leaves, whatever remains of its lines
CRASH = re.compile(
    rb"Traceback \(most recent call last\)|failed to start|Received sigquit|^Killed$"
    rb"|\b\w*(?:Error|Exception|OutOfResources|CompilerFailed)(?:: |\(['\"]|$)",
    re.MULTILINE,
)
HARMLESS = re.compile(rb"^.*Error retrieving safetensors.*$", re.MULTILINE)
PROCESS = re.compile(rb"(?:\S+ +\| )?(\([^)]*pid=\d+[^)]*\)|\[rank\d+\])")


def read(data: bytes) -> LogReading:
    return read_stream(io.BytesIO(data), "a.log", size=None)


def by_line(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: b"\n".join(map(change, data.split(b"\n")))


def bare(line: bytes) -> bytes:
    parsed = read_line(line)
    return b" " * parsed.indent + parsed.text.encode()


def as_json(line: bytes) -> bytes:
    return json.dumps({"log": line.decode() + "\n", "stream": "stderr"}).encode()


# Other ways to bring the same log.
DRESSES: dict[str, Callable[[bytes], bytes]] = {
    "without prefixes": by_line(bare),
    "Windows": lambda data: data.replace(b"\n", b"\r\n"),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "colours": by_line(lambda line: b"\x1b[0;36m" + line + b"\x1b[0m"),
    "Compose": by_line(lambda line: b"web-1  | " + line),
    "Kubernetes": by_line(lambda line: b"2026-05-01T10:00:00.1234Z stderr F " + line),
    "journald": by_line(lambda line: b"May 01 10:00:00 node-7 vllm[8707]: " + line),
    "indented": by_line(lambda line: b"    " + line),
    "JSON": by_line(as_json),
}


@pytest.mark.parametrize("dress", DRESSES)
def test_the_first_finding_is_the_same_in_any_dress(dress):
    for name in FAILED:
        first, again = read(LOGS[name]).findings[0], read(DRESSES[dress](LOGS[name])).findings[0]
        assert (again.id, again.level) == (first.id, first.level), name


def truncated(name: str, numbers: random.Random) -> bytes:
    first, last = sorted(numbers.sample(range(len(LOGS[name]) + 1), 2))
    return LOGS[name][first if numbers.random() < 0.7 else 0 : last]


def half_bare(name: str, numbers: random.Random) -> bytes:
    return by_line(lambda line: bare(line) if numbers.random() < 0.4 else line)(LOGS[name])


def interleaved(name: str, numbers: random.Random) -> bytes:
    logs = [LOGS[name].split(b"\n"), LOGS[numbers.choice(list(LOGS))].split(b"\n")]
    lines: list[bytes] = []
    while logs := [log for log in logs if log]:
        log = numbers.choice(logs)
        count = numbers.randrange(1, 4)
        lines += log[:count]
        del log[:count]
    return b"\n".join(lines)


def reordered(name: str, numbers: random.Random) -> bytes:
    """The lines of each process together."""
    processes: dict[bytes, list[bytes]] = {}
    for line in LOGS[name].split(b"\n"):
        match = PROCESS.match(line)
        processes.setdefault(match[1] if match else b"", []).append(line)
    order = numbers.sample(list(processes), len(processes))
    return b"\n".join(line for process in order for line in processes[process])


@pytest.mark.parametrize("mutate", [truncated, half_bare, interleaved, reordered])
@pytest.mark.parametrize("seed", range(10))
def test_a_mutated_log_that_holds_a_crash_is_never_clean(mutate, seed):
    numbers = random.Random(seed)
    for name in numbers.sample(list(LOGS), 8):
        data = mutate(name, numbers)
        crash = CRASH.search(HARMLESS.sub(b"", data))
        try:
            reading = read(data)
        except RequestError:
            assert not crash, (name, data)
            continue
        bad = any(finding.level in BAD for finding in reading.findings)
        assert bad or not crash, (name, data)
