"""Connections of one server: how many, how long they may take, and what they may send.

uvicorn's h11 protocol with limits on what happens before a request reaches the application. A
connection that only waits for its client (idle, half a head, half a body, an unread response) gives
way to a new one when all are taken, the oldest first, so that clients that hold connections open do
not lock others out. If all of them have a response to compute, a new one gets 503.

The time of a whole body is in `middleware.py`.
"""

import asyncio
import contextlib
import logging
import os
import resource
from collections.abc import Callable, Sequence
from socket import SO_ERROR, SOL_SOCKET, socket
from types import FrameType
from typing import Any, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .openai_format import INTERNAL, error_response

log = logging.getLogger("salient.serve")
IDLE_SECONDS = 75  # longer than the 60 of the usual proxies, so that they close first
FULL_SECONDS = 0.002  # from one new connection to the next while all are taken
GONE_AT_ONCE = 64  # connections that were reset while they waited: closed in one step
SPARE = 16  # connections beyond the limit, which only get their 503
OTHER_DESCRIPTORS = 48  # for template processes and files
FEWEST = 4  # connections, however few descriptors there are
RECEIVE_BYTES = 2**16  # parsed in one step of the event loop
HEAD_BYTES, MOST_HEADERS = 2**14, 200  # of a request
HEAD_SECONDS = 10.0  # for all headers of a request
REFUSED_SECONDS = 2.0  # for the request that gets the 503
DISCARD_SECONDS, DISCARD_BYTES = 5.0, 2**20  # of a body after its response: then the end
UNREAD_SECONDS = 30.0  # for a client to read what it is sent
FREE_PIECES, PIECE_BYTES = 256, 64  # of a body: these many, and one more for so many bytes


class BoundedParser(h11.Connection):
    """h11's parser. Refuses large heads, and bodies in very small chunks, each of which costs as
    much as a large one.
    """

    pieces, size = 0, 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.pieces = self.size = 0
            size = len(event.target) + sum(len(n) + len(v) + 4 for n, v in event.headers)
            if size > HEAD_BYTES or len(event.headers) > MOST_HEADERS:
                raise h11.RemoteProtocolError("the head of the request is too large")
        elif isinstance(event, h11.Data):
            self.pieces += 1
            self.size += len(event.data)
            if self.pieces > FREE_PIECES + self.size // PIECE_BYTES:
                raise h11.RemoteProtocolError("the body comes in too many small pieces")
        return event


class BoundedProtocol(H11Protocol):
    """A connection. most: how many the server may have

    deadline: for the client to send what is missing, by the event loop's clock
    unread: for it to read what it was sent
    """

    most = 1024
    deadline: float | None = None
    unread: float | None = None
    discarded = 0
    requests = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.conn = BoundedParser(h11.SERVER, HEAD_BYTES)
        super().connection_made(transport)
        with contextlib.suppress(AttributeError):  # of asyncio's own transports
            cast("Any", transport).max_size = RECEIVE_BYTES
        self.since = self.loop.time()
        self.deadline = self.since + HEAD_SECONDS
        count = len(self.connections)
        if count <= self.most:
            return
        waiting = [c for c in self._others() if c.waits_for_client]
        if waiting:
            min(waiting, key=lambda c: (c.requests > 0, c.since)).abort()
        elif count > self.most + SPARE:
            self.abort()
        else:
            self.app = overloaded
            self.deadline = self.since + REFUSED_SECONDS

    def _others(self) -> "list[BoundedProtocol]":
        everyone = cast("set[BoundedProtocol]", self.connections)
        return [c for c in everyone if c is not self and not c.transport.is_closing()]

    @property
    def waits_for_client(self) -> bool:
        """Whether the server has nothing to compute for this connection."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return self.conn.their_state is h11.SEND_BODY or self.flow.write_paused

    def abort(self) -> None:
        """Close without waiting for the client."""
        self.transport.abort()
        self.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except h11.ProtocolError:  # after the response, or while it is sent
            self.abort()
            return
        if self.cycle is None or self.cycle.response_complete:
            self._limit_idle(len(data))
        else:
            self.deadline = None

    def _limit_idle(self, count: int) -> None:
        """Bytes came that are no complete head, or belong to a body that nobody reads."""
        if self.conn.their_state is h11.SEND_BODY:
            self.discarded += count
            if self.discarded > DISCARD_BYTES:
                self.abort()
        elif self.deadline is None and self.conn.trailing_data[0]:
            self.deadline = self.loop.time() + HEAD_SECONDS
        elif not self.conn.trailing_data[0] and self.requests:
            self.deadline = None  # uvicorn's time for idle connections

    def on_response_complete(self) -> None:
        self.requests += 1
        self.since, self.deadline, self.discarded = self.loop.time(), None, 0
        if self.conn.their_state is h11.SEND_BODY:
            self.deadline = self.since + DISCARD_SECONDS
        super().on_response_complete()
        if not self.cycle.response_complete:  # a pipelined request
            self.deadline = None
        elif self.deadline is None and self.conn.trailing_data[0]:
            self.deadline = self.since + HEAD_SECONDS

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # its response was sent, or is on its way
            self.abort()

    def shutdown(self) -> None:
        try:
            super().shutdown()
        except h11.ProtocolError:  # its client sent what is no HTTP
            self.abort()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread = self.loop.time() + UNREAD_SECONDS

    def resume_writing(self) -> None:
        super().resume_writing()
        self.unread = None

    def check_time(self, now: float) -> None:
        """End the connection at its deadlines."""
        if self.unread is None and self.transport.is_closing():  # after what is not yet read
            self.unread = now + UNREAD_SECONDS
        if any(last is not None and now > last for last in (self.deadline, self.unread)):
            self.abort()


async def overloaded(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application: 503."""
    message = "All connections of this server are busy. Try again shortly."
    response = error_response(message, 503, INTERNAL)
    response.headers["Connection"] = "close"
    await response(scope, receive, send)


def allowed_connections(requested: int) -> int:
    """As many of `requested` connections as there are descriptors, whose soft limit is raised."""
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:  # not on every system
        used = 64
    needed = requested + SPARE + OTHER_DESCRIPTORS + used
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    if soft == resource.RLIM_INFINITY:
        return requested
    return max(FEWEST, min(requested, soft - SPARE - OTHER_DESCRIPTORS - used))


class BoundedServer(uvicorn.Server):
    """uvicorn's server on one socket, with the limits of this module.

    on_start: called as soon as it accepts requests   on_signal: called for the first signal
    """

    def __init__(
        self,
        config: uvicorn.Config,
        listening: socket,
        on_start: Callable[[], None],
        on_signal: Callable[[int], None],
    ):
        super().__init__(config)
        self._listening, self._on_start, self._on_signal = listening, on_start, on_signal

    async def startup(self, sockets: list[socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_log_loop_error)
        await super().startup([])
        self._accepting = asyncio.ensure_future(self._accept())
        if self.started:
            self._on_start()

    async def _accept(self) -> None:
        """Accept connections, one after another, and slowly when all are taken: clients that open
        new ones without end wait in the system's queue, and cost little. Those that have gone
        cost least."""
        loop, protocol = asyncio.get_running_loop(), self.config.http_protocol_class
        most = cast("type[BoundedProtocol]", protocol).most
        self._listening.settimeout(0)
        gone = 0
        while True:
            try:
                accepted, _ = await loop.sock_accept(self._listening)
                if accepted.getsockopt(SOL_SOCKET, SO_ERROR):
                    accepted.close()
                    gone += 1
                    if gone % GONE_AT_ONCE == 0:
                        await asyncio.sleep(0)
                    continue
                await loop.connect_accepted_socket(self._protocol, accepted)
                full = len(self.server_state.connections) >= most
                await asyncio.sleep(FULL_SECONDS if full else 0)
            except OSError as error:  # no descriptor left, or the client has gone
                log.warning("a connection was not accepted: %s", error)
                await asyncio.sleep(0.1)

    def _protocol(self) -> asyncio.Protocol:
        protocol = cast("type[BoundedProtocol]", self.config.http_protocol_class)
        return protocol(self.config, self.server_state, self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # each second
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                cast("BoundedProtocol", connection).check_time(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._accepting.cancel()
        await super().shutdown([self._listening])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self._on_signal(sig)
        super().handle_exit(sig, frame)


def server_config(
    app: Any, *, deadline: int = 30, connections: int = 1024, proxies: Sequence[str] = ()
) -> uvicorn.Config:
    """The settings of a `BoundedServer`.

    deadline: seconds that running requests have after a signal
    proxies: addresses whose X-Forwarded-For and X-Forwarded-Proto are believed
    """
    most = allowed_connections(connections)
    return uvicorn.Config(
        app,
        http=type("LimitedProtocol", (BoundedProtocol,), {"most": most}),
        ws="none",
        loop="asyncio",  # whose transports RECEIVE_BYTES bounds
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=deadline,
    )


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if isinstance(error, (OSError, h11.ProtocolError)):  # a client's fault, or no descriptor left
        log.warning("%s: %s", context["message"], error)
    else:
        loop.default_exception_handler(context)
