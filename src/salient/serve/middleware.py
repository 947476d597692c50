"""What stands before the routes: name, key, size of a body, and a line in the log for each."""

import contextlib
import hmac
import json
import logging
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .error_responses import refused
from .messages import is_loopback

log = logging.getLogger("salient.access")
OPEN = ("/", "/health", "/ready", "/metrics", "/version")  # answered without a key
PAGE, PAGE_DATA = "/explorer/", "/explorer/api/"  # the page's files are open, what it shows is not


class BodyTooLarge(Exception):
    """A body that goes on beyond its bound."""


class GuardMiddleware:
    """An ASGI middleware. The log has no prompts, no answers and no keys.

    only_local: answer only to names of this machine itself. A page of the Internet can have its own
        name lead to 127.0.0.1 (DNS rebinding), and would read along as if it were ours.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, largest_body: int, *, only_local: bool):
        self.app, self.largest, self.only_local = app, largest_body, only_local
        self._key = api_key.encode() if api_key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, seen = time.perf_counter(), {"status": 0, "bytes": 0}
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.largest:
                raise BodyTooLarge
            return message

        async def unless_too_large(message: MutableMapping[str, Any]) -> None:
            if read <= self.largest:  # else the app answers to an exception that it did not expect
                await watched(message)

        async def watched(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            seen["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, watched)
                return
            with contextlib.suppress(BodyTooLarge):
                await self.app(scope, bounded, unless_too_large)
            if read > self.largest:
                await self._too_large()(scope, receive, watched)
        finally:
            _note(scope, seen, time.perf_counter() - started)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = dict(scope["headers"])
        if self.only_local and not is_loopback(_host(headers)):
            words = (
                "This server answers to localhost alone. To reach it by a name, give it --api-key."
            )
            return refused(words, 403, "permission_error")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.largest:
            return self._too_large()
        if self._key is None or _is_open(scope["path"]) or scope["method"] == "OPTIONS":
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key):
            return None
        words = "A key is needed: send it as 'Authorization: Bearer KEY'."
        return refused(words, 401, "authentication_error")

    def _too_large(self) -> ASGIApp:
        return refused(f"The body has more than {self.largest} bytes, the most here.", 413)


def _host(headers: dict[bytes, bytes]) -> str:
    """The name that the client used, without the port; HTTP/1.0 need not send one."""
    given = headers.get(b"host", b"localhost").decode("latin-1")
    if given.startswith("["):
        return given[1:].partition("]")[0]
    return given.partition(":")[0]


def _is_open(path: str) -> bool:
    return path in OPEN or (path.startswith(PAGE) and not path.startswith(PAGE_DATA))


def _note(scope: Scope, seen: dict[str, int], seconds: float) -> None:
    client = scope.get("client")
    line = {
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": seen["status"],
        "bytes": seen["bytes"],
        "ms": round(1e3 * seconds, 1),
    }
    log.info(json.dumps(line))
