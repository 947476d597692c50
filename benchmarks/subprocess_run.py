"""Run a program as a child process, and measure wall time and peak memory of the whole process.

The time includes imports. The peak is VmHWM of the child, read ten times a second. `ru_maxrss` at
the end is an upper bound: a child inherits the peak of its parent, which may have loaded models.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.1  # seconds between two readings of VmHWM


@dataclass(frozen=True)
class FinishedRun:
    """A child process that ended with exit code 0.

    out: its standard output
    seconds: wall time of the whole process
    peak_bytes: peak of resident memory, without the last tenth of a second
    maxrss_bytes: an upper bound of the peak
    """

    out: str
    seconds: float
    peak_bytes: int
    maxrss_bytes: int

    def cost(self) -> dict[str, float]:
        """Time and memory, for a JSON document."""
        return {
            "seconds_process": round(self.seconds, 2),
            "peak_bytes": self.peak_bytes,
            "maxrss_bytes": self.maxrss_bytes,
        }


def run(command: Sequence[str], log: Path) -> FinishedRun:
    """Run `command` with its standard error in the file `log`. Exits with code 2 if it fails."""
    log_step(f"running {Path(command[0]).name} {' '.join(command[1:])}")
    highest = [0]
    ended = threading.Event()
    started = time.perf_counter()
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
    ):
        watcher = threading.Thread(target=_watch, args=(child.pid, highest, ended))
        watcher.start()
        try:
            out = child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
        finally:
            ended.set()
            watcher.join()
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        log_step(f"Exit code {child.returncode}; the end of {log}:\n{tail}")
        raise SystemExit(2)
    # Linux counts ru_maxrss in KiB.
    return FinishedRun(out, seconds, highest[0], usage.ru_maxrss * 1024)


def _watch(pid: int, highest: list[int], ended: threading.Event) -> None:
    """Write the largest VmHWM of the process to `highest[0]`."""
    while not ended.wait(EVERY):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        if match := re.search(r"VmHWM:\s+(\d+) kB", status):
            highest[0] = max(highest[0], int(match[1]) * 1024)


def log_step(line: str) -> None:
    """Print a line of progress to standard error."""
    print(line, file=sys.stderr, flush=True)
