"""The HTTP server's socket and process. Imports neither torch nor uvicorn before it runs."""

import contextlib
import ipaddress
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from salient.core.errors import RequestError
from salient.core.options import strings

from .options import ServeOptions

if TYPE_CHECKING:
    from fastapi import FastAPI

BACKLOG = 2048  # connections that the system keeps until they are accepted
GRACE_SECONDS = 2  # after the deadline, for what was cancelled to stop
SWITCH_SECONDS = 0.001  # that a thread keeps the interpreter while the engine's waits for it


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises RequestError for an address in use."""
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listening.close()
        raise RequestError(
            f"Cannot listen on {host}:{port} ({getattr(error, 'strerror', None) or error}). Use "
            "another --port or --host, or stop the program that listens there."
        ) from None
    return listening


def url_of(listening: socket.socket) -> str:
    """The server's URL: 'http://127.0.0.1:8000'."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run_app(
    app: "FastAPI",
    listening: socket.socket,
    options: ServeOptions,
    on_start: Callable[[], None],
) -> None:
    """Serve until SIGINT or SIGTERM; running requests then have the deadline's seconds to finish.

    What hangs beyond that does not keep the process alive.

    on_start: called as soon as the server accepts requests
    """
    from .connections import BoundedServer, server_config
    from .limited_log import limit_logs

    limit_logs()
    config = server_config(
        app,
        deadline=options.deadline,
        connections=options.max_connections,
        proxies=strings(options.forwarded_allow_ips),
    )
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    # After shutdown uvicorn raises the signal again, for handlers that were installed before.
    try:
        with (
            contextlib.suppress(KeyboardInterrupt),
            ExitWatchdog(options.deadline + GRACE_SECONDS) as watchdog,
        ):
            BoundedServer(config, listening, on_start, watchdog.start).run()
    finally:
        sys.setswitchinterval(before)


def end_process(code: int) -> None:
    """End the process if a server ran in it until a signal, without taking its model apart: that
    takes seconds, in which supervisors and users wait."""
    if ExitWatchdog.signalled:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


# Started with the process and seconds of an `ExitWatchdog`: waits for a signal's number, then for
# the end of the process until its time is over.
GUARD = """
import os, select, signal, sys, time
pid, seconds, last = int(sys.argv[1]), float(sys.argv[2]), None
while last is None or last > time.monotonic():
    if select.select([0], [], [], None if last is None else last - time.monotonic())[0]:
        number = os.read(0, 1)
        if not number:
            sys.exit()
        if last is None and number[0] in (signal.SIGINT, signal.SIGTERM):
            last = time.monotonic() + seconds
os.kill(pid, signal.SIGKILL)
"""


class ExitWatchdog(contextlib.AbstractContextManager["ExitWatchdog"]):
    """Ends the process `seconds` after a signal, unless the context is left before.

    A thread does so with a line in the log; a second later, if code hangs that lets no thread run,
    a process of its own. That one learns of the signal from the C library, not from Python.
    """

    signalled: ClassVar = False  # a server of this process was stopped by a signal

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._timer: threading.Timer | None = None

    def __enter__(self) -> "ExitWatchdog":
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        argv = [sys.executable, "-I", "-S", "-c", GUARD, str(os.getpid()), str(self._seconds + 1)]
        with contextlib.suppress(OSError):  # no more processes
            subprocess.Popen(argv, stdin=read, start_new_session=True)
        os.close(read)
        self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def start(self, sig: int) -> None:
        """On signal `sig`, which gives the exit code."""
        self._timer = threading.Timer(self._seconds, self._end, [sig])
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._previous)
        os.close(self._write)
        if self._timer is not None:
            ExitWatchdog.signalled = True
            self._timer.cancel()

    def _end(self, sig: int) -> None:
        log = logging.getLogger("salient.serve")
        log.error("the server did not stop within %g seconds; it ends now", self._seconds)
        os._exit(128 + sig)
