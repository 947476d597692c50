"""The server as a process: bound to an address, ended by a signal when what runs has ended."""

import contextlib
import logging
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from salient.core.errors import RequestError

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75  # longer than the 60 of the usual proxies, so that they close first


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises RequestError where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        taken.close()
        raise RequestError(
            f"Cannot listen on {host}:{port} ({getattr(error, 'strerror', error)}). Give another "
            "--port, or end what listens there."
        ) from None
    return taken


def address(listening: socket.socket) -> str:
    """Where clients find it: 'http://127.0.0.1:8000'."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_app(
    app: FastAPI, listening: socket.socket, deadline: int, started: Callable[[], None]
) -> None:
    """Serve until SIGINT or SIGTERM; then running requests have `deadline` seconds to end.

    started: called once requests are taken
    """
    _log_access()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=deadline,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        server_header=False,
        lifespan="on",
    )
    # Once all have ended, the server raises the signal again, for whoever caught it before.
    with contextlib.suppress(KeyboardInterrupt):
        _Server(config, started).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Tells when it is there."""

    def __init__(self, config: uvicorn.Config, told: Callable[[], None]):
        super().__init__(config)
        self._told = told

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._told()


def _log_access() -> None:
    """A line of JSON for each request, on standard error."""
    log = logging.getLogger("salient.access")
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
