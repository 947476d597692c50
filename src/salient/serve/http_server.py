"""The server as a process: started on a socket, ended by a signal when what runs has ended."""

import contextlib
import logging
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

KEEP_ALIVE_SECONDS = 75  # longer than the 60 of the usual proxies, so that they close first


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
