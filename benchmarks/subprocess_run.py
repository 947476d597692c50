"""One program run as a child, with what it cost as a whole process: wall time and peak memory.

The time counts everything a user waits for, imports included. The peak is VmHWM, read ten times a
second while the child lives: it is the child's alone. `ru_maxrss` from the end is told beside it as
an upper bound, because a child starts with its parent's own peak in it: after this process has held
four models, it says so of every child.
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
class Finished:
    """A child that ended well.

    out: its standard output
    seconds: wall time of the whole process
    peak_bytes: its peak of resident memory, to the last tenth of a second
    maxrss_bytes: an upper bound of that
    """

    out: str
    seconds: float
    peak_bytes: int
    maxrss_bytes: int

    def cost(self) -> dict[str, float]:
        """The figures alone, for a JSON document."""
        return {
            "seconds_process": round(self.seconds, 2),
            "peak_bytes": self.peak_bytes,
            "maxrss_bytes": self.maxrss_bytes,
        }


def run(command: Sequence[str], log: Path) -> Finished:
    """Run `command` with its standard error in the file `log`. Stops the benchmark, with exit
    code 2, if it fails."""
    say(f"running {Path(command[0]).name} {' '.join(command[1:])}")
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
        say(f"It ended with {child.returncode}; the end of {log}:\n{tail}")
        raise SystemExit(2)
    # Linux counts ru_maxrss in KiB.
    return Finished(out, seconds, highest[0], usage.ru_maxrss * 1024)


def _watch(pid: int, highest: list[int], ended: threading.Event) -> None:
    """Keep in `highest[0]` the largest VmHWM that the process showed."""
    while not ended.wait(EVERY):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        if found := re.search(r"VmHWM:\s+(\d+) kB", status):
            highest[0] = max(highest[0], int(found[1]) * 1024)


def say(line: str) -> None:
    """A line of progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
