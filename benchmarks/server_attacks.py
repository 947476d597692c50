"""Attack `salient serve` as one client while another asks for short completions.

    .venv/bin/python benchmarks/server_attacks.py --checkpoint CHECKPOINT
    .venv/bin/python benchmarks/server_attacks.py --checkpoint CHECKPOINT --only bad-ids half-open

The server is a process of its own with 256 descriptors; the attacker is another. In turn each
attack of `attack_table.py` runs for `--seconds`, and all the while a second client asks for
completions of 8 tokens, each on a new connection. Then the server gets SIGTERM while the attack
continues.

The bars, on a quiet machine: every completion is answered within 2 s, the log grows by less than
1 MB a minute and has no traceback, resident memory stays under 2 GB above the start (but where
valid prompts fill the cache of keys and values), and the process ends within its deadline.
Writes WORK/server_attacks.json. Exit code 1 if a bar is missed.
"""

import argparse
import contextlib
import http.client
import json
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console

from attack_table import ATTACKS, FILLS_CACHE, HOSTILE_TEMPLATE, Attack
from machine import conditions, conditions_line
from salient.core.report import Report, Table

DESCRIPTORS = 256
ANSWER_BAR, LOG_BAR, MEMORY_BAR = 2.0, 1e6, 2e9
DEADLINE, EXIT_SLACK = 3, 6.0  # seconds: --deadline, and for the process to end after it
PROBE = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
START_SECONDS = 180
QUIET = Attack("none: a quiet server", "hold", connections=0)


@dataclass
class Outcome:
    """What the second client and the operator saw during one attack. Seconds and bytes."""

    attack: str
    answers: int
    worst: float
    median: float
    failures: dict[str, int]
    log_bytes_a_minute: float
    tracebacks: int
    memory_growth: int
    ready: int
    exit_seconds: float
    exit_code: int

    @property
    def missed(self) -> list[str]:
        """The bars that this attack breaks."""
        bars = {
            f"{sum(self.failures.values())} completions failed": bool(self.failures),
            f"a completion took {self.worst:.1f} s": self.worst > ANSWER_BAR,
            "no completion was answered": not self.answers,
            f"{self.log_bytes_a_minute / 1e6:.1f} MB of log a minute": (
                self.log_bytes_a_minute > LOG_BAR
            ),
            f"{self.tracebacks} tracebacks": self.tracebacks > 0,
            f"{self.memory_growth / 1e9:.1f} GB more memory": (
                self.memory_growth > MEMORY_BAR and self.attack not in FILLS_CACHE
            ),
            f"ended after {self.exit_seconds:.1f} s": self.exit_seconds > DEADLINE + EXIT_SLACK,
        }
        return [text for text, broken in bars.items() if broken]


def main() -> None:
    """Attack, compare with the bars, report."""
    options = _arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    chosen = [a for a in [QUIET, *ATTACKS] if not options.only or a.name in options.only]
    outcomes = []
    for attack in chosen:
        outcomes.append(_attacked(attack, options))
        print(attack.name, outcomes[-1].missed or "holds", asdict(outcomes[-1]), flush=True)
    data = {**conditions(), "outcomes": [asdict(o) for o in outcomes]}
    (options.work / "server_attacks.json").write_text(json.dumps(data, indent=2) + "\n")
    _report(outcomes, data).show(Console(width=110))
    sys.exit(any(o.missed for o in outcomes))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, type=Path, help="a folder")
    parser.add_argument("--only", nargs="*", help="names of attacks")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each attack")
    parser.add_argument("--work", type=Path, default=Path(".work/bench/attacks"))
    return parser.parse_args()


def _attacked(attack: Attack, options: argparse.Namespace) -> Outcome:
    """A server of its own under one attack, until it has ended."""
    checkpoint = options.checkpoint
    if attack.hostile_template:
        checkpoint = _with_template(checkpoint, options.work / "hostile")
    path = options.work / f"{attack.name.split(':')[0]}.log"
    with path.open("wb") as log, _server(checkpoint, log) as (server, port):
        _completion(port)
        process, size = psutil.Process(server.pid), path.stat().st_size
        memory = process.memory_info().rss
        program = [sys.executable, str(Path(__file__).with_name("attack_table.py"))]
        attacker = subprocess.Popen([*program, attack.name, str(port)])
        try:
            times, failures, peak, ready = _probed(port, process, options.seconds)
            logged = path.stat().st_size - size
            began = time.monotonic()
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=60)
            ended = time.monotonic() - began
        finally:
            attacker.kill()
            attacker.wait()
    return Outcome(
        attack.name,
        len(times),
        max(times, default=float("inf")),
        statistics.median(times) if times else float("inf"),
        failures,
        logged * 60 / options.seconds,
        path.read_bytes().count(b"Traceback (most recent call last)"),
        peak - memory,
        ready,
        ended,
        server.returncode if server.returncode is not None else 0,
    )


def _with_template(checkpoint: Path, folder: Path) -> Path:
    """A copy of `checkpoint` whose chat template never ends."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").write_text(HOSTILE_TEMPLATE)
    return folder


@contextlib.contextmanager
def _server(checkpoint: Path, log):
    """A running server and its port."""
    command = [sys.executable, "-m", "salient", "serve", str(checkpoint), "--engine", "embedded"]
    command += ["--port", "0", "--deadline", str(DEADLINE), "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, preexec_fn=_few_files)
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        yield child, int(json.loads(line)["url"].rpartition(":")[2])
    finally:
        child.kill()
        child.wait()


def _few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def _probed(
    port: int, process: psutil.Process, seconds: float
) -> tuple[list[float], dict[str, int], int, int]:
    """Times and failures of the second client's completions, peak memory, and /ready at the end."""
    times: list[float] = []
    failures: dict[str, int] = {}
    peak, last = 0, time.monotonic() + seconds
    time.sleep(0.5)  # for the attack to begin
    while time.monotonic() < last:
        began = time.monotonic()
        try:
            status = str(_completion(port))
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
        if status == "200":
            times.append(time.monotonic() - began)
        else:
            failures[status] = failures.get(status, 0) + 1
        with contextlib.suppress(psutil.Error):
            peak = max(peak, process.memory_info().rss)
        time.sleep(0.2)
    try:
        ready = _request(port, "GET", "/ready")
    except (OSError, http.client.HTTPException):
        ready = 0
    return times, failures, peak, ready


def _completion(port: int) -> int:
    return _request(port, "POST", "/v1/completions", json.dumps(PROBE))


def _request(port: int, method: str, path: str, body: str | None = None) -> int:
    """The status of one request on a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status


def _report(outcomes: list[Outcome], data: dict[str, object]) -> Report:
    columns = (
        "attack",
        "answers",
        "median s",
        "worst s",
        "log kB/min",
        "MB more",
        "exit s",
        "bars",
    )
    rows = [
        (
            o.attack,
            str(o.answers),
            f"{o.median:.2f}",
            f"{o.worst:.2f}",
            f"{o.log_bytes_a_minute / 1e3:.0f}",
            f"{o.memory_growth / 1e6:.0f}",
            f"{o.exit_seconds:.1f}",
            "; ".join(o.missed) or "hold",
        )
        for o in outcomes
    ]
    table = Table("Another client during each attack", columns, rows, ("bars",))
    return Report(data, [table], [conditions_line(data)], not any(o.missed for o in outcomes))


if __name__ == "__main__":
    main()
