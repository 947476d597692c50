"""The HTTP server's socket and process. Imports neither torch nor uvicorn before it runs."""

import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from salient.core.errors import RequestError

if TYPE_CHECKING:
    from fastapi import FastAPI

BACKLOG = 2048
GRACE_SECONDS = 5  # after the deadline, for what was cancelled to stop
IDLE_SECONDS = 75  # longer than the 60 of the usual proxies, so that they close first


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
    app: "FastAPI", listening: socket.socket, deadline: int, on_start: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM; running requests then have `deadline` seconds to finish.

    What hangs beyond that does not keep the process alive.

    on_start: called as soon as the server accepts requests
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_start()

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            if not self.should_exit:
                watchdog.start(sig)
            super().handle_exit(sig, frame)

    watchdog = ExitWatchdog(deadline + GRACE_SECONDS)
    _log_access()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        use_colors=False,  # standard error escapes what is no style of its own
        timeout_graceful_shutdown=deadline,
        timeout_keep_alive=IDLE_SECONDS,
        server_header=False,
        lifespan="on",
    )
    # After shutdown uvicorn raises the signal again, for handlers that were installed before.
    with contextlib.suppress(KeyboardInterrupt), watchdog:
        Server(config).run(sockets=[listening])


class ExitWatchdog(contextlib.AbstractContextManager["ExitWatchdog"]):
    """Ends the process `seconds` after `start`, unless the context is left before."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._timer: threading.Timer | None = None

    def start(self, sig: int) -> None:
        """In the main thread, on signal `sig`, which gives the exit code."""
        self._timer = threading.Timer(self._seconds, self._end, [sig])
        self._timer.daemon = True
        self._timer.start()
        # The system's alarm also ends code that never lets another thread run.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, self._seconds + 1)

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _end(self, sig: int) -> None:
        log = logging.getLogger("salient.serve")
        log.error("the server did not stop within %g seconds; it ends now", self._seconds)
        os._exit(128 + sig)


def _log_access() -> None:
    """Log each request to standard error, as a line of JSON."""
    log = logging.getLogger("salient.access")
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
