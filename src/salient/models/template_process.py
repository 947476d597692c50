"""Render chat templates in processes of their own, with limits on time, memory and output.

The processes are started on demand, and shared by all templates and threads of this process. One
that exceeds a limit is ended, and the next request starts another.
"""

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, Any, Literal, NoReturn

from salient.core.errors import ResourceError

from .child_process import child_command, child_options, no_process

SECONDS = 5.0  # of one rendering
START_SECONDS = 60.0  # of a process on a busy machine
LEAST_OUTPUT, OUTPUT_FACTOR = 2**20, 4  # characters; and for each byte of the request
PROCESSES = 2  # at once; a third request waits
WAIT_SECONDS = 15.0
CHILD = Path(__file__).with_name("template_child.py")

FaultKind = Literal["demand", "fault", "time", "memory", "output"]


class TemplateFault(Exception):
    """A template that does not render. kind: "demand" is its own raise_exception"""

    def __init__(self, kind: FaultKind, reason: str):
        super().__init__(reason)
        self.kind, self.reason = kind, reason


LIMITS: dict[str, str] = {
    "time": f"it did not end within {SECONDS:g} seconds",
    "memory": "it takes more memory than a conversation needs",
    "output": "it writes far more text than the conversation has",
}


class TemplateProcess:
    """A running child. Not for several threads at once. Raises OSError if it cannot start."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in ("TZ", "LANG") if name in os.environ}
        self._popen = subprocess.Popen(
            child_command(CHILD),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            **child_options(**environment),
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._stdin: IO[bytes] = self._popen.stdin
        self._stdout: IO[bytes] = self._popen.stdout
        for pipe in (self._stdin, self._stdout):
            os.set_blocking(pipe.fileno(), False)
        try:
            self.exchange(b"", START_SECONDS, 1)
        except TemplateFault as fault:
            raise OSError("the process does not start") from fault

    def exchange(self, data: bytes, seconds: float, most: int) -> bytes:
        """Write `data`; the line that comes back, of at most `most` bytes.

        Raises TemplateFault, and ends the process, if there is none in time.
        """
        deadline, reply = time.monotonic() + seconds, bytearray()
        view = memoryview(data)
        with selectors.DefaultSelector() as ready:
            ready.register(self._stdout, selectors.EVENT_READ)
            if view:
                ready.register(self._stdin, selectors.EVENT_WRITE)
            while not reply.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0:
                    self._end("time")
                for key, _ in ready.select(left):
                    if key.fileobj is self._stdin:
                        view = self._write(view)
                        if not view:
                            ready.unregister(self._stdin)
                        continue
                    piece = os.read(self._stdout.fileno(), 2**20)
                    reply += piece
                    if not piece:  # killed by a limit of the system, or out of memory
                        self._end("memory")
                    if len(reply) > most:
                        self._end("output")
        return bytes(reply)

    def _write(self, view: memoryview) -> memoryview:
        try:
            return view[os.write(self._stdin.fileno(), view[: 2**16]) :]
        except BrokenPipeError:
            self._end("memory")

    def _end(self, kind: FaultKind) -> NoReturn:
        self.close()
        raise TemplateFault(kind, LIMITS[kind])

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def close(self) -> None:
        """End the process."""
        self._popen.kill()
        self._popen.wait()
        for pipe in (self._stdin, self._stdout):
            with contextlib.suppress(OSError):
                pipe.close()


class ProcessPool:
    """At most `PROCESSES` children; idle ones wait for the next rendering."""

    def __init__(self) -> None:
        self._free = threading.BoundedSemaphore(PROCESSES)
        self._idle: list[TemplateProcess] = []
        self._owner = os.getpid()

    def render(self, template: str, variables: dict[str, Any], now: str | None) -> str:
        """Raises TemplateFault, ModelError without a process, ResourceError if all stay busy."""
        values = json.dumps(variables)
        # In proportion to the conversation: a template does not raise its own limit.
        most = LEAST_OUTPUT + OUTPUT_FACTOR * len(values)
        head = json.dumps({"template": template, "now": now, "seconds": SECONDS, "most": most})
        data = f'{head[:-1]}, "variables": {values}}}\n'.encode()
        reply = json.loads(self._exchange(data, 4 * most + 2**16).decode("utf-8", "surrogatepass"))
        if "text" in reply:
            return reply["text"]
        raise TemplateFault(reply["kind"], reply["reason"] or LIMITS[reply["kind"]])

    def _exchange(self, data: bytes, most: int) -> bytes:
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise ResourceError("The chat template is busy with other conversations. Try again.")
        try:
            process = self._process()
            reply = process.exchange(data, SECONDS, most)
            if reply.startswith(b'{"kind": "memory"'):
                process.close()  # it ends itself
            else:
                self._idle.append(process)
            return reply
        finally:
            self._free.release()

    def _process(self) -> TemplateProcess:
        """A running child."""
        if self._owner != os.getpid():  # a fork shares its parent's pipes
            self._owner, self._idle = os.getpid(), []
        with contextlib.suppress(IndexError):
            while True:
                process = self._idle.pop()
                if process.running:
                    return process
                process.close()
        try:
            return TemplateProcess()
        except OSError as error:
            raise no_process("render the chat template", error) from error

    def close(self) -> None:
        """End the idle processes."""
        if self._owner == os.getpid():
            while self._idle:
                self._idle.pop().close()


_POOL = ProcessPool()
atexit.register(_POOL.close)


def render_template(template: str, variables: dict[str, Any], now: str | None = None) -> str:
    """The text that `template` makes of `variables`, among them `messages`.

    now: the ISO date that the template reads; None: the clock's

    Raises TemplateFault, and ResourceError if all processes stay busy.
    """
    return _POOL.render(template, variables, now)
