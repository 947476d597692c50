"""The served model's name."""

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from salient.core.errors import RequestError
from salient.loadtest.client import resolve_model
from salient.loadtest.plan import LoadTarget


@contextlib.contextmanager
def listing(status: int = 200, body: bytes = b'{"data": [{"id": "toy"}]}') -> Iterator[str]:
    """A server that answers every GET with `body`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_missing_name_is_the_first_that_the_server_lists():
    with listing() as url:
        assert resolve_model(LoadTarget(url, "")).model == "toy"
        assert resolve_model(LoadTarget(f"{url}/v1", "")).model == "toy"
        assert resolve_model(LoadTarget(url, "mine")).model == "mine"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, b"", "answers with status 401. Set OPENAI_API_KEY"),
        (500, b"", "answers with status 500. Look at the server's log"),
        (200, b"<html>", "lists no model as OpenAI's API does"),
        (200, json.dumps({"data": []}).encode(), "lists no model"),
        (200, json.dumps({"data": [{"id": "\x1b[31m"}]}).encode(), "lists no model"),
        (200, json.dumps({"data": [{"id": "x" * 5000}]}).encode(), "lists no model"),
        (200, json.dumps({"data": [{"id": 7}]}).encode(), "lists no model"),
        (200, b"[" * 10_000, "lists no model"),
    ],
)
def test_an_unusable_list_of_models_is_an_error(status, body, message):
    with listing(status, body) as url, pytest.raises(RequestError, match=message):
        resolve_model(LoadTarget(url, ""))


def test_a_missing_server_is_an_error():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(RequestError, match=r"does not answer .* Start the server first"):
            resolve_model(LoadTarget(url, ""))
