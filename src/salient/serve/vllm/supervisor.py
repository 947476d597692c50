"""vLLM as a child process: passes on its output and signals, ends what it leaves behind.

The child leads a session of its own, so that Ctrl-C reaches it once, through us. vLLM's engine and
workers belong to that session, and what is left of it is ended after the child. If we are killed,
a guard process ends the session, as soon as the pipe to its standard input breaks.
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
from types import FrameType

import psutil

from salient.core.errors import RequestError
from salient.diagnose.finding import Finding
from salient.diagnose.report import finding_lines

CHUNK = 1 << 16  # bytes read at once
TICK = 0.2  # seconds between two calls of on_tick
REST = 2.0  # seconds to read what is left in the pipe, which others may still fill
GRACE = 30.0  # seconds for the child to end after a signal
SETTLE = 2.0  # seconds for what outlives the child to end by itself, as Python's helpers do
TERMINATE = 5.0  # seconds for processes to end after SIGTERM, and after SIGKILL
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MAX_CAUSES = 3  # that are printed
_FAULTS = {
    "SIGSEGV": "a fault in its native code, or in a driver's",
    "SIGABRT": "its native code gave up; its last lines say why",
    "SIGBUS": "often /dev/shm is too small: in Docker use --ipc=host or --shm-size",
    "SIGILL": "this build uses an instruction that this processor lacks",
}
_KILLED = (
    "Linux does so when memory runs out (see `dmesg | grep -i 'killed process'`), as does a "
    "container's limit; or a user did."
)


@dataclass
class StopReason:
    """How the child was stopped. signal: the first one; killed: why it was killed after that, or
    ""; deadline: when it will be"""

    signal: int | None = None
    killed: str = ""
    deadline: float = float("inf")


@dataclass(frozen=True)
class ExitStatus:
    """code: the child's, -9 for signal 9; leftover: how many processes it left behind"""

    code: int
    stop: StopReason
    leftover: int


class _Child:
    def __init__(self, grace: float) -> None:
        self.grace, self.stop = grace, StopReason()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        try:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RequestError(
                f"{command[0]} cannot be started ({reason}). Name the Python of vLLM's "
                "environment: --vllm-python PATH"
            ) from error
        if self.stop.signal is not None:  # it came during the start
            self._forward(self.stop.signal)
        return self.process

    def on_signal(self, number: int, _: FrameType | None) -> None:
        """The first signal goes to the child, a second one kills its session."""
        if self.stop.signal is None:
            self.stop.signal, self.stop.deadline = number, time.monotonic() + self.grace
            self._forward(number)
        else:
            self.kill("a second signal came")

    def _forward(self, number: int) -> None:
        """vLLM does not handle SIGHUP, and would die without ending its engine: SIGTERM instead."""
        if self.process:
            with contextlib.suppress(OSError):
                self.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    def kill(self, reason: str) -> None:
        if self.process:
            self.stop.killed, self.stop.deadline = reason, float("inf")
            _signal_session(self.process.pid, signal.SIGKILL)


def run_child(
    command: list[str],
    environment: dict[str, str],
    *,
    on_output: Callable[[bytes], None],
    on_tick: Callable[[StopReason], None],
    grace: float = GRACE,
) -> ExitStatus:
    """Run `command` until it ends. on_output: gets its output, both streams as they mix, or b"";
    on_tick: called several times a second.

    Raises RequestError if it cannot be started.
    """
    child = _Child(grace)
    with _handlers(child.on_signal):
        process = child.start(command, environment)
        with _guarded(process):
            while process.poll() is None:
                on_output(_read(process, TICK))
                on_tick(child.stop)
                if time.monotonic() > child.stop.deadline:
                    child.kill(f"it had not ended after {grace:g} seconds")
            last = time.monotonic() + SETTLE
            while (leftover := session_members(process.pid)) and time.monotonic() < last:
                on_output(_read(process, TICK))
            end_session(process.pid)
            last = time.monotonic() + REST
            while time.monotonic() < last and (data := _read(process, 0)):
                on_output(data)
        on_tick(child.stop)
    return ExitStatus(process.returncode, child.stop, len(leftover))


def _read(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """The output that comes within `seconds`, at most CHUNK bytes; b"" if none does."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], seconds)[0]:
        return b""
    data = os.read(process.stdout.fileno(), CHUNK)
    if not data:  # closed, though the process runs
        time.sleep(seconds)
    return data


@contextlib.contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals, except those that are ignored, as under nohup. Only in the main thread."""
    main = threading.current_thread() is threading.main_thread()
    numbers = [n for n in FORWARDED if main and signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextlib.contextmanager
def _guarded(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """With a guard process; an error of ours ends the session, too."""
    guard = None
    try:
        guard = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(process.pid)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        yield
    except BaseException:
        end_session(process.pid)
        process.wait()
        raise
    finally:
        if guard:
            guard.kill()
            guard.communicate()
        if process.stdout:
            process.stdout.close()


def session_members(session: int) -> list[int]:
    """The living processes of a session, in any of its groups."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            ours = os.getsid(pid) == session
            if ours and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                members.append(pid)
    return members


def _signal_session(session: int, number: int) -> None:
    for pid in session_members(session):
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def end_session(session: int, seconds: float = TERMINATE) -> None:
    """Terminate the processes of a session; kill those that run after `seconds`."""
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, TERMINATE)):
        _signal_session(session, number)
        last = time.monotonic() + patience
        while session_members(session) and time.monotonic() < last:
            time.sleep(TICK)


def exit_code(status: ExitStatus, errors: list[Finding]) -> int:
    """The child's exit code; 128 plus the number of the signal that killed it; 1 instead of the 0
    that vLLM returns after its engine died, for programs that restart servers."""
    if status.code == 0 and status.stop.signal is None and errors:
        return 1
    return status.code if status.code >= 0 else 128 - status.code


def exit_lines(status: ExitStatus, errors: list[Finding], *, ready: bool) -> list[str]:
    """How vLLM ended, for people. errors: of its log; ready: whether it had served"""
    lines, stop = [_exit_line(status, exit_code(status, errors), ready=ready)], status.stop
    if stop.signal is None:
        for finding in errors[:MAX_CAUSES]:
            lines += finding_lines(finding)
        if not errors and status.code > 0:
            lines.append("Salient knows no line of its log as a cause: see its last lines.")
    if status.leftover:
        plural = "es" * (status.leftover != 1)
        lines.append(f"It left {status.leftover} process{plural} behind; they were ended.")
    return lines


def _exit_line(status: ExitStatus, code: int, *, ready: bool) -> str:
    if status.stop.killed:
        return f"vLLM was killed (exit code {code}): {status.stop.killed}."
    if status.stop.signal is not None:
        return f"vLLM ended after {_signal_name(status.stop.signal)} (exit code {code})."
    if status.code < 0:
        name = _signal_name(-status.code)
        if name in _FAULTS:
            return f"vLLM crashed with {name} (exit code {code}): {_FAULTS[name]}."
        reason = f" {_KILLED}" if name == "SIGKILL" else ""
        return f"vLLM was killed by {name} (exit code {code}), and not by Salient.{reason}"
    if code and not ready:
        return f"vLLM did not start (exit code {code})."
    if code:
        return f"vLLM stopped by itself (exit code {status.code})."
    return "vLLM ended by itself (exit code 0)."


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


if __name__ == "__main__":  # the guard
    sys.stdin.buffer.read()
    end_session(int(sys.argv[1]), GRACE)
