"""The server as a process: bound to an address, ended by a signal when what runs has ended."""

import logging
import socket

import uvicorn
from fastapi import FastAPI

from salient.core.errors import RequestError

BACKLOG = 2048


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


def run_app(app: FastAPI, listening: socket.socket, deadline: int) -> None:
    """Serve until SIGINT or SIGTERM; then running requests have `deadline` seconds to end."""
    logging.getLogger("salient.access").setLevel(logging.INFO)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=deadline,
        timeout_keep_alive=75,
        server_header=False,
        lifespan="on",
    )
    uvicorn.Server(config).run(sockets=[listening])
