"""One client's connections: bounded in number, time and pieces, so that others are answered."""

import contextlib
import json
import logging
import socket
import struct
import time

import pytest

from helpers.rtn_checkpoints import rounded_toy
from helpers.served_app import served, until
from salient.serve import connections, middleware
from salient.serve.app import AppSettings

BODY = json.dumps({"prompt": "one two", "max_tokens": 2}).encode()
MOST = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = rounded_toy(tmp_path_factory.mktemp("served"))
    with served(folder, AppSettings("toy"), limits={"connections": MOST}) as running:
        yield running


def opened(server, data: bytes = b"") -> socket.socket:
    """A connection on which `data` was sent."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(data)
    return connection


def reply_to(server, data: bytes) -> bytes:
    """All that the server sends until it closes the connection, or for a second."""
    with contextlib.closing(opened(server, data)) as connection:
        return everything(connection)


def everything(connection: socket.socket, seconds: float = 1.0) -> bytes:
    connection.settimeout(seconds)
    reply = b""
    with contextlib.suppress(OSError):
        while piece := connection.recv(2**16):
            reply += piece
    return reply


def closed(connection: socket.socket) -> bool:
    connection.settimeout(5)
    with contextlib.suppress(ConnectionError):
        return connection.recv(100) == b""
    return True


def head(*lines: str) -> bytes:
    first = ("POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join([*first, *lines, "", ""]).encode()


@pytest.mark.parametrize("data", [b"", b"GET / HTT", head("Content-Length: 900") + b"{"])
def test_connections_that_wait_for_their_client_give_way_to_new_ones(data, server):
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(contextlib.closing(opened(server, data))) for _ in range(40)]
        assert server.request("/v1/completions", json.loads(BODY)).status == 200
        assert closed(waiting[0])


def test_connections_that_were_reset_in_the_queue_cost_no_request(server, monkeypatch):
    """The event loop stands still while they come, as it does under a flood."""
    protocols = []
    protocol = connections.BoundedServer._protocol
    monkeypatch.setattr(
        connections.BoundedServer,
        "_protocol",
        lambda self: (protocols.append(1), protocol(self))[1],
    )
    server.worker._loop.call_soon_threadsafe(time.sleep, 0.5)
    time.sleep(0.1)
    for _ in range(200):
        with contextlib.closing(opened(server, head(f"Content-Length: {len(BODY)}") + BODY)) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert server.request("/v1/completions", json.loads(BODY)).status == 200
    assert len(protocols) < 5


def test_a_connection_over_the_limit_gets_503(server):
    """Where all others have a response to compute."""
    long = json.dumps({"prompt": "a", "max_tokens": 30, "ignore_eos": True, "n": 16}).encode()
    request = head(f"Content-Length: {len(long)}") + long
    with contextlib.ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(contextlib.closing(opened(server, request)))
        until(lambda: server.worker.running + server.worker.waiting > 16 * (MOST - 1))
        reply = server.request("/health")
        assert reply.status == 503
        assert "All connections of this server are busy" in reply.error["message"]
        assert reply.headers["retry-after"] == "1"
    until(lambda: server.request("/health").status == 200)


def test_an_incomplete_head_ends_at_its_time(server, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with contextlib.closing(opened(server, b"GET /health HTTP/1.1\r\nHost: loc")) as fresh:
        assert closed(fresh)
    after_a_response = opened(server, b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\nGET /h")
    with contextlib.closing(after_a_response):
        assert b"200 OK" in everything(after_a_response, 4)
        assert closed(after_a_response)


def test_an_incomplete_body_is_a_408(server, monkeypatch):
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.5)
    reply = reply_to(server, head("Content-Length: 99") + b"{")
    assert b" 408 " in reply
    assert b"did not come in time" in reply


@pytest.mark.parametrize(
    ("lines", "body", "message"),
    [
        (["Content-Length: 2", "Transfer-Encoding: chunked"], b"0\r\n\r\n", b"not both"),
        (["Content-Length: 2", "Content-Length: 3"], b"{}", b"Invalid HTTP request"),
        (["Content-Length: -2"], b"{}", b"Invalid HTTP request"),
        (["Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n", b"Invalid HTTP request"),
        (["Transfer-Encoding: chunked"], b"zz\r\n", b"Invalid HTTP request"),
        (["Transfer-Encoding: chunked"], b"1\r\n \r\n" * 3000, b"Invalid HTTP request"),
        (["a: " + "b" * 20_000], b"", b"Invalid HTTP request"),
    ],
)
def test_a_request_of_unclear_or_costly_length_is_refused(lines, body, message, server):
    reply = reply_to(server, head(*lines) + body)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert message in reply
    assert b"\r\nconnection: close" in reply.lower()


def pour(connection: socket.socket, piece: bytes) -> None:
    """Send `piece` until the server closes the connection."""
    connection.settimeout(20)
    for _ in range(1000):
        connection.sendall(piece)


def test_a_body_that_nobody_reads_ends(server):
    with contextlib.closing(opened(server, head("Content-Length: 99999999999"))) as connection:
        assert b" 413 " in connection.recv(4096)
        with pytest.raises(ConnectionError):
            pour(connection, b" " * 2**16)


def test_an_unread_response_ends(server, monkeypatch):
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.5)
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.closing(opened(server)) as connection, pytest.raises(ConnectionError):
        pour(connection, request * 500)


def test_faults_of_clients_leave_no_traceback(server, caplog):
    for data in (b"\x16\x03\x01" * 50 + b"\r\n\r\n", head("Content-Length: 50") + b"{"):
        with contextlib.closing(opened(server, data)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    late = head("Transfer-Encoding: chunked", "Content-Type: text/plain") + b"zz\r\n" * 9
    reply_to(server, late)
    reply_to(server, head("Connection: Upgrade", "Upgrade: websocket", "Content-Length: 0"))
    time.sleep(0.2)
    assert not [r for r in caplog.records if r.exc_info or r.levelno >= logging.ERROR]
    assert server.request("/v1/completions", json.loads(BODY)).status == 200


@pytest.mark.parametrize(("proxies", "client"), [([], "127.0.0.1"), (["127.0.0.1"], "9.9.9.9")])
def test_forwarded_headers_are_believed_only_of_a_named_proxy(proxies, client, tmp_path, caplog):
    caplog.set_level(logging.INFO, "salient.access")
    limits = {"proxies": proxies}
    with served(rounded_toy(tmp_path), AppSettings("toy"), limits=limits) as proxied:
        proxied.request("/version", **{"X-Forwarded-For": "9.9.9.9"})
        until(lambda: "/version" in caplog.text)
    line = next(r.message for r in caplog.records if "/version" in r.message)
    assert json.loads(line)["client"] == client


def test_the_limit_of_connections_leaves_descriptors_for_other_files(monkeypatch):
    def limits(soft: int, hard: int) -> int:
        monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (soft, hard))
        monkeypatch.setattr(connections.resource, "setrlimit", lambda *_: None)
        return connections.allowed_connections(1024)

    assert limits(2**20, 2**20) == 1024
    assert limits(64, 2**20) == 1024
    assert 16 < limits(256, 256) < 200
    assert limits(32, 32) == connections.FEWEST
