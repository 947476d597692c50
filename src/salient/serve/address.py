"""The address that a server listens on, taken before anything slow is done. Imports no torch."""

import socket

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
            f"Cannot listen on {host}:{port} ({getattr(error, 'strerror', None) or error}). Give "
            "another --port or --host, or end what listens there."
        ) from None
    return taken


def address(listening: socket.socket) -> str:
    """Where clients find it: 'http://127.0.0.1:8000'."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
