"""A toy checkpoint served on a free port, and plain requests to it."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from helpers.engines import opened
from salient.serve.app import AppSettings, create_app
from salient.serve.connections import BoundedServer, server_config
from salient.serve.http_server import bind
from salient.serve.worker import Worker

CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@dataclass
class Reply:
    """A response. events: the data of a stream's events"""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.data["error"]

    @property
    def events(self) -> list[Any]:
        lines = self.body.decode().split("\n\n")
        *events, last = [line.removeprefix("data: ") for line in lines if line]
        assert last == "[DONE]"
        return [json.loads(event) for event in events]


@dataclass
class ServedApp:
    """A running server."""

    port: int
    engine: Any
    worker: Worker | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def request(self, path: str, body: Any = None, method: str = "", **headers: str) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **self.headers, **headers}
        with contextlib.closing(connection):
            connection.request(method or ("GET" if body is None else "POST"), path, data, headers)
            reply = connection.getresponse()
            names = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, names, reply.read())

    def metric(self, name: str) -> float:
        lines = self.request("/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))


@contextlib.contextmanager
def served(
    folder: Path,
    settings: AppSettings,
    max_waiting: int = 256,
    limits: dict[str, Any] | None = None,
    **options: Any,
) -> Iterator[ServedApp]:
    """`folder` served until the block is left. limits: of `server_config`"""
    engine = opened(folder, **options).engine
    engine.tokenizer.chat_template = CHAT
    worker = Worker(engine, max_waiting)
    with serving(create_app(worker, settings), **(limits or {})) as port:
        yield ServedApp(port, engine, worker)


@contextlib.contextmanager
def serving(app: FastAPI, **limits: Any) -> Iterator[int]:
    """The port of `app`, served until the block is left. limits: of `server_config`"""
    listening = bind("127.0.0.1", 0)
    config = server_config(app, **limits)
    server = BoundedServer(config, listening, lambda: None, lambda _: None)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listening.close()
    assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until `condition()` is true."""
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last, "timed out"
        time.sleep(0.01)
