"""A verb of the command line in a fork of this process, with limits; and what it did wrong.

A fork starts in milliseconds, where a process imports torch for seconds. Its command line, output,
exit code and end are those of a process.
"""

import contextlib
import json
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

WALL_SECONDS, MEMORY = 10.0, 2 * 2**30
MOST_OUTPUT = 2**16
PATIENCE = 6.0  # times the wall clock's limit: this machine may be busy with other things
STDIN: int | None = None  # a descriptor; None: nothing
VERDICTS = ("plan", "doctor", "validate")  # verbs that exit with 1 for a verdict


@dataclass(frozen=True)
class VerbRun:
    """What a verb did. code: its exit code, negative for a signal   memory: bytes at its peak"""

    argv: tuple[str, ...]
    code: int
    output: str
    wall_s: float
    cpu_s: float
    memory: int

    @property
    def fault(self) -> str:
        """What is wrong with it, '' if nothing."""
        last = self.output.strip().splitlines()[-1:] or [""]
        if "Traceback (most recent call last)" in self.output:
            return f"a traceback: {last[0][:300]}"
        if unexpected := re.search(r"error: (Unexpected .*)", self.output):
            return unexpected[1][:400]
        if "The system refused" in self.output:
            return f"an error of the system: {last[0][:300]}"
        if len(self.output) > MOST_OUTPUT:
            return f"{len(self.output)} letters of output"
        if self.memory > MEMORY:
            return f"{self.memory / 2**30:.1f} GiB"
        if self.cpu_s > WALL_SECONDS or self.wall_s > WALL_SECONDS * PATIENCE - 1:
            return f"{self.wall_s:.0f} s, {self.cpu_s:.0f} s of a core"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}: {last[0][:300]}"
        error = re.search(r"^error:", self.output, re.MULTILINE) is not None
        if self.code == 1 and (self.argv[0] not in VERDICTS or error):
            return f"exit code 1 without a verdict: {last[0][:300]}"
        open_verdict = self.argv[0] == "validate" or "undecided" in self.output  # of plan
        if self.code == 2 and not error and not open_verdict:
            return "exit code 2 without an error"
        return ""


def run_verb(argv: Sequence[str], home: Path) -> VerbRun:
    """Run `salient` with `argv` in a fork; its output goes through a file in `home`."""
    log = home / "output.txt"
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(list(argv), log)
    killer = threading.Timer(WALL_SECONDS * PATIENCE, _kill, [child])
    killer.start()
    _, status, usage = os.wait4(child, 0)
    killer.cancel()
    wall = time.monotonic() - start
    _kill(child)  # what it left behind in its group
    output = log.read_bytes().decode("utf-8", "replace") if log.exists() else ""
    code = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return VerbRun(tuple(argv), code, output, wall, cpu, usage.ru_maxrss * 1024)


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _run(argv: list[str], log: Path) -> None:
    """The fork: never returns."""
    code = 70
    try:
        os.setpgid(0, 0)
        handle = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_RDWR)
        typed = os.open(os.devnull, os.O_RDONLY) if STDIN is None else STDIN
        for number, file in ((0, typed), (1, handle), (2, handle)):
            os.dup2(file, number)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        most = size + 2 * MEMORY  # so that a bomb does not take the machine; resident is measured
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, encoding="utf-8", closefd=False)
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        if argv[0] == "serve":
            threading.Thread(target=_use_server, args=[log], daemon=True).start()
        from salient.cli import main

        main(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _use_server(log: Path) -> None:
    """Wait for the server, send it a completion and a chat, and end it with SIGINT."""
    url = None
    while url is None:
        time.sleep(0.05)
        match = re.search(rb"Serving .* at (http://[\d.]+:\d+)", log.read_bytes())
        url = match[1].decode() if match else None
    chat = {"messages": [{"role": "user", "content": "hello"}]}
    for path, body in (("completions", {"prompt": "one two"}), ("chat/completions", chat)):
        data = json.dumps({**body, "max_tokens": 2}).encode()
        request = urllib.request.Request(
            f"{url}/v1/{path}", data, {"Content-Type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=2 * WALL_SECONDS).read()
        except urllib.error.HTTPError as error:
            reply = error.read().decode("utf-8", "replace")
            if error.code >= 500:
                print(f"{path}: HTTP {error.code}: {reply}", flush=True)
        except OSError as error:
            print(f"{path}: {error}", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
