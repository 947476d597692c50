"""vLLM as a child process: its log read as it comes, signals handed on, nothing left behind.

The child has a session of its own, so that Ctrl-C reaches it once, through us. vLLM's engine and
workers live in that session; whatever is left of it when the child has ended is ended too, and a
keeper does the same if we are killed.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from salient.core.errors import RequestError

from . import keeper

CHUNK = 1 << 16  # bytes read at once
TICK = 0.2  # seconds between looks at what is not a log
REST = 2.0  # seconds for what is left in the pipe, which others may still fill
GRACE = 30.0  # seconds that a child has to end after a signal
SETTLE = 2.0  # seconds in which what outlives it ends by itself: Python's own helpers do
LEFTOVERS = 5.0  # seconds that what it leaves behind then has
_HANDED_ON = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass
class StopReason:
    """How the child was told to end. signal: the first that came; killed: why it was killed then,
    "" if it was not; last: when it will be"""

    signal: int | None = None
    killed: str = ""
    last: float = float("inf")


@dataclass(frozen=True)
class ExitStatus:
    """code: of the child, -9 for signal 9; stop: how it was told to end, if it was; left: how many
    processes it left behind"""

    code: int
    stop: StopReason
    left: int


def run_child(
    command: list[str],
    environment: dict[str, str],
    *,
    heard: Callable[[bytes], None],
    tick: Callable[[StopReason], None],
    grace: float = GRACE,
) -> ExitStatus:
    """Run `command` until it ends. heard: gets what it writes, both streams as they mix, or b"";
    tick: is called several times a second, with what was done to end it.

    Raises RequestError where it cannot be started.
    """
    with _handlers(grace) as (stop, start):
        child = start(command, environment)
        with _kept(child):
            stream = _Stream(child)
            while child.poll() is None:
                heard(stream.read(TICK))
                tick(stop)
                if time.monotonic() > stop.last:
                    stop.killed = f"it had not ended after {grace:g} seconds"
                    stop.last = float("inf")
                    keeper.send(child.pid, signal.SIGKILL)
            left = _left_behind(child, stream, heard)
        tick(stop)
    return ExitStatus(child.returncode, stop, left)


def _left_behind(
    child: subprocess.Popen[bytes], stream: "_Stream", heard: Callable[[bytes], None]
) -> int:
    """End what is left when the child has ended, and read the rest; how many did not end alone."""
    last = time.monotonic() + SETTLE
    while keeper.members(child.pid) and time.monotonic() < last:
        heard(stream.read(TICK))
    left = len(keeper.members(child.pid))
    if left:
        keeper.end(child.pid, LEFTOVERS)
    for data in stream.rest():
        heard(data)
    return left


class _Stream:
    """What the child writes."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        self._pipe, self._open = child.stdout, True

    def read(self, seconds: float) -> bytes:
        """What comes within `seconds`, at most CHUNK; b"" if nothing does."""
        if not self._open:
            time.sleep(seconds)
            return b""
        if not select.select([self._pipe], [], [], seconds)[0]:
            return b""
        data = os.read(self._pipe.fileno(), CHUNK)
        self._open = bool(data)
        return data

    def rest(self) -> Iterator[bytes]:
        """What has been written and not read, as far as it comes within REST seconds."""
        last = time.monotonic() + REST
        while time.monotonic() < last and (data := self.read(0)):
            yield data


@contextlib.contextmanager
def _kept(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """With a keeper, which ends the child's session if we are gone without having said so."""
    words = [sys.executable, "-I", "-S", str(Path(keeper.__file__)), str(child.pid), f"{GRACE}"]
    watching = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    except BaseException:  # an error of ours: end the child before it is told
        keeper.end(child.pid, LEFTOVERS)
        child.wait()
        raise
    finally:
        with contextlib.suppress(OSError):
            watching.communicate(keeper.DONE)
        if child.stdout:
            child.stdout.close()


@contextlib.contextmanager
def _handlers(
    grace: float,
) -> Iterator[tuple[StopReason, Callable[[list[str], dict[str, str]], subprocess.Popen[bytes]]]]:
    """Signals go to the child from here on: the first is handed on, a second kills all of it.

    Gives how the child was told to end, and what starts it. In a thread of a program that has
    handlers of its own nothing is handed on.
    """
    stop, children = StopReason(), list[subprocess.Popen[bytes]]()

    def handle(number: int, _: FrameType | None) -> None:
        if stop.signal is not None:
            stop.killed = "a second signal came"
            for child in children:
                keeper.send(child.pid, signal.SIGKILL)
            return
        stop.signal, stop.last = number, time.monotonic() + grace
        for child in children:
            _hand_on(child, number)

    def start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        children.append(_start(command, environment))
        if stop.signal is not None:  # it came while the child was being made
            _hand_on(children[0], stop.signal)
        return children[0]

    numbers = [getattr(signal, name) for name in _HANDED_ON if hasattr(signal, name)]
    ours = threading.current_thread() is threading.main_thread()
    # one that is ignored, as under nohup, stays so
    taken = [n for n in numbers if ours and signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in taken}
    try:
        yield stop, start
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hand_on(child: subprocess.Popen[bytes], number: int) -> None:
    """vLLM does not know SIGHUP, and would die of it without ending its engine: SIGTERM instead."""
    hangup = getattr(signal, "SIGHUP", None)
    with contextlib.suppress(OSError):
        child.send_signal(signal.SIGTERM if number == hangup else number)


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise RequestError(
            f"{command[0]} cannot be started ({words}). Name the Python of vLLM's environment: "
            "--vllm-python PATH"
        ) from error
