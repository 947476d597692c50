"""Checks before the routes: host name, API key, size of the body; and the access log."""

import asyncio
import hmac
import json
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .http_server import is_loopback
from .openai_format import INTERNAL, OVERLOADED, error_response

log = logging.getLogger("salient.access")
BODY_SECONDS, BODY_RATE = 30.0, 2**16  # for a body, and a second more for so many bytes
FREE_BYTES, MOST_PENDING = 2**16, 2**27  # of a body that is always read; of all bodies together
OPEN = ("/", "/health", "/ready", "/metrics", "/version")  # need no key
PAGE, PAGE_DATA = "/explorer/", "/explorer/api/"  # the page's files need no key, its data do


class GuardMiddleware:
    """An ASGI middleware. Its log contains no prompts, responses or keys.

    only_local: serve only names of this machine. A web page can let its own name resolve to
        127.0.0.1 (DNS rebinding), and would then read responses as its own.
    """

    def __init__(self, app: ASGIApp, api_key: str | None, max_body: int, *, only_local: bool):
        self.app, self.max_body, self.only_local = app, max_body, only_local
        self.too_large = f"The body exceeds the limit of {max_body} bytes."
        self._key = api_key.encode() if api_key else None
        self.pending = 0  # bytes of all bodies, beyond the first FREE_BYTES of each

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, reply = time.perf_counter(), {"status": 0, "bytes": 0}
        body = _ReceivedBody(self, receive)

        async def logged_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                reply["status"] = message["status"]
            reply["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            app = self._refusal(scope)
            if app is None and _has_body(scope):
                app = await body.read()
            if not body.disconnected:
                await (app or self.app)(scope, body.receive, logged_send)
        except asyncio.CancelledError:  # at the server's deadline
            if not reply["status"]:
                await error_response("The server stops.", 503, INTERNAL)(
                    scope, receive, logged_send
                )
        finally:
            self.pending -= body.pending
            _log_request(scope, reply, time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        headers = dict(scope["headers"])
        if b"transfer-encoding" in headers and b"content-length" in headers:
            # a proxy before this server may read another length, and so another request
            message = "A request has either Content-Length or Transfer-Encoding, not both."
            return _closing(message, 400)
        if self.only_local and not is_loopback(_host(headers)):
            message = "This server serves only localhost. To reach it by a name, set --api-key."
            return error_response(message, 403, "permission_error")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.max_body:
            return error_response(self.too_large, 413)
        path = scope["path"]
        open_path = path in OPEN or (path.startswith(PAGE) and not path.startswith(PAGE_DATA))
        if self._key is None or open_path or scope["method"] == "OPTIONS":
            return None
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key):
            return None
        message = "A key is needed: send it as 'Authorization: Bearer KEY'."
        return error_response(message, 401, "authentication_error")


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


class _ReceivedBody:
    """The body of a request, which is read here before the application runs: half of one, whose
    client goes away, costs little.

    pending: its bytes that count for all requests together
    disconnected: whether the client has gone
    """

    def __init__(self, guard: GuardMiddleware, receive: Receive):
        self._guard, self._receive = guard, receive
        self._data: bytes | None = None
        self.pending, self.disconnected = 0, False

    async def receive(self) -> Message:
        """The whole body, then the messages after it."""
        if self._data is None:
            return await self._receive()
        message = {"type": "http.request", "body": self._data, "more_body": False}
        self._data = None
        return message

    async def read(self) -> ASGIApp | None:
        """Read the body; a response if it is too large or too slow."""
        data, last = bytearray(), time.monotonic() + BODY_SECONDS
        more = True
        while more and not self.disconnected:
            try:
                left = last + len(data) / BODY_RATE - time.monotonic()
                message = await asyncio.wait_for(self._receive(), left)
            except TimeoutError:
                return _closing("The body did not come in time.", 408)
            self.disconnected = message["type"] == "http.disconnect"
            more = message.get("more_body", False)
            data += message.get("body", b"")
            if len(data) > self._guard.max_body:
                return error_response(self._guard.too_large, 413)
            if not self._fits(len(data)):
                message = "Too many large bodies are on their way. Try again shortly."
                return error_response(message, 429, OVERLOADED)
        self._data = bytes(data)
        return None

    def _fits(self, size: int) -> bool:
        """Whether memory is left for a body that has `size` bytes now."""
        more = max(0, size - FREE_BYTES) - self.pending
        self.pending += more
        self._guard.pending += more
        return not more or self._guard.pending <= MOST_PENDING


def _closing(message: str, status: int) -> ASGIApp:
    """An error after which the connection ends."""
    response = error_response(message, status)
    response.headers["Connection"] = "close"
    return response


def _host(headers: dict[bytes, bytes]) -> str:
    """The host name of the request, without the port; HTTP/1.0 need not send one."""
    host = headers.get(b"host", b"localhost").decode("latin-1")
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _log_request(scope: Scope, reply: dict[str, int], seconds: float) -> None:
    client = scope.get("client")
    line = {
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"][:200],
        **reply,
        "ms": round(1e3 * seconds, 1),
    }
    log.info(json.dumps(line))
