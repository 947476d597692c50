"""Ends a session of processes, its grandchildren too, when the program that keeps it has died.

Runs as a program of its own, beside the one that it watches over, so that a kill -9 of that one
leaves no engine behind that holds a GPU. Reads its standard input: "done" lets everything be, an
end without that word means that the other program is gone. Needs the standard library alone.

    python -I -S keeper.py SESSION SECONDS
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

DONE = b"done"
_PAUSE = 0.1  # seconds between looks at who is left
_STUCK = 5.0  # seconds after which what a broken driver holds is given up


def members(session: int) -> list[int]:
    """Living processes of `session`; where /proc does not tell, the group's leader stands for
    them."""
    found = []
    try:
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal() and _session_of(entry) == session:
                found.append(int(entry.name))
    except OSError:
        found = []
    if found or Path("/proc/self/stat").exists():
        return found
    with contextlib.suppress(OSError):
        os.killpg(session, 0)
        return [-session]
    return []


def _session_of(entry: Path) -> int | None:
    """The session of a process that lives; None if it is a zombie, or gone."""
    try:
        # The name, in brackets, may hold anything; behind it: state, parent, group, session.
        words = (entry / "stat").read_bytes().rpartition(b")")[2].split()
        return int(words[3]) if words[0] not in (b"Z", b"X") else None
    except (OSError, ValueError, IndexError):
        return None


def send(session: int, number: int) -> bool:
    """Send a signal to all of `session`; whether any of them was left."""
    found = members(session)
    for process in found:
        with contextlib.suppress(OSError):
            os.kill(process, number)
    return bool(found)


def end(session: int, seconds: float) -> None:
    """Ask all of `session` to end, and kill what is left after `seconds`."""
    last = time.monotonic() + seconds
    send(session, signal.SIGTERM)
    while members(session):
        if time.monotonic() >= last:
            send(session, signal.SIGKILL)
        if time.monotonic() >= last + _STUCK:
            return
        time.sleep(_PAUSE)


def main() -> None:
    session, seconds = int(sys.argv[1]), float(sys.argv[2])
    if sys.stdin.buffer.read() != DONE:
        end(session, seconds)


if __name__ == "__main__":
    main()
