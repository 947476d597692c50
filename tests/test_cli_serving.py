"""`salient serve` as a process: it starts, responds, ends on a signal and loses no request."""

import concurrent.futures
import contextlib
import http.client
import io
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from helpers.commands import Command
from helpers.rtn_checkpoints import rounded_toy
from salient.cli import console

SMALL = ("--engine", "embedded", "--port", "0", "--dtype", "float32", "--context-length", "256")
BODY = {"prompt": "one two three", "max_tokens": 200, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rounded_toy(tmp_path_factory.mktemp("served"))


@contextlib.contextmanager
def running(folder: Path, *argv: str) -> Iterator[tuple[Command, dict[str, Any]]]:
    """The process and its first message."""
    with Command("serve", folder, *SMALL, "--json", *argv, OMP_NUM_THREADS="1") as child:
        ready = child.stdout.readline()
        yield child, json.loads(ready or child.stderr.read())


def query(url: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    with contextlib.closing(connection):
        sent = None if body is None else json.dumps(body)
        all_headers = {"Content-Type": "application/json", **headers}
        connection.request("POST" if sent else "GET", path, sent, all_headers)
        got = connection.getresponse()
        return got.status, json.loads(got.read() or b"null")


def test_a_signal_under_load_loses_no_running_request(folder):
    """Twenty answers under way, a SIGTERM: each comes whole, then the process ends with 0."""
    with running(folder, "--concurrency", "4") as (child, event):
        assert event["engine"] == "embedded"
        assert event["slots"] == 4
        url = event["url"]
        with concurrent.futures.ThreadPoolExecutor(20) as pool:
            requests = [pool.submit(query, url, "/v1/completions", BODY) for _ in range(20)]
            while _entered(url) < 20:
                time.sleep(0.01)
            child.send_signal(signal.SIGTERM)
            replies = [one.result() for one in requests]
        assert [status for status, _ in replies] == [200] * 20
        assert {reply["usage"]["completion_tokens"] for _, reply in replies} == {200}
        assert child.wait(timeout=30) == 0
        with pytest.raises(OSError, match="refused"):
            query(url, "/health")


def _entered(url: str) -> float:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
    names = ("num_requests_running{", "num_requests_waiting{", "request_success_total{")
    names = tuple(f"vllm:{name}" for name in names)
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names))


def test_an_interrupt_ends_an_idle_server_at_once_with_0(folder):
    with running(folder) as (child, event):
        assert query(event["url"], "/v1/models")[1]["data"][0]["id"] == folder.name
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=10) == 0
        lines = [json.loads(line) for line in child.stderr]
        assert [line["path"] for line in lines] == ["/v1/models"]


def test_key_name_and_origin_follow_the_options(folder, monkeypatch):
    """A page of another origin may ask only if it was allowed."""
    monkeypatch.setenv("SALIENT_API_KEY", "secret")
    allowed = ("--allow-origin", "http://a.example")
    with running(folder, "--served-model-name", "mine", *allowed) as (_, event):
        assert event["model"] == "mine"
        assert event["api_key"] is True
        assert query(event["url"], "/v1/models")[0] == 401
        status, listed = query(event["url"], "/v1/models", Authorization="Bearer secret")
        assert (status, listed["data"][0]["id"]) == (200, "mine")
        for origin, expected in (("http://a.example", "http://a.example"), ("http://b", None)):
            connection = http.client.HTTPConnection(
                event["url"].removeprefix("http://"), timeout=60
            )
            with contextlib.closing(connection):
                connection.request("GET", "/v1/models", headers={"Origin": origin})
                reply = connection.getresponse()
                assert reply.getheader("access-control-allow-origin") == expected


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("nowhere/at/all", *SMALL), "No model folder 'nowhere/at/all'"),
        (("x", "--engine", "tgi"), "Unknown engine 'tgi'. Use one of auto, embedded, vllm"),
        (("x", "--engine", "embedded", "--", "--seed", "1"), "arguments after -- are for vLLM"),
        (("x", "--engine", "embedded", "--host", "300.1.1.1"), "Cannot listen on 300.1.1.1:8000"),
    ],
)
def test_invalid_options_are_refused_with_exit_code_2(argv, message):
    with Command("serve", *argv) as command:
        code, _, errors = command.communicate()
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors


def test_a_closed_progress_bar_draws_no_more():
    """A server runs for days: nothing spins on its terminal."""
    drawn = io.StringIO()
    with console._bar(Console(file=drawn, force_terminal=True), shown=True) as progress:
        progress(1, 2, "quantizing", "")
        progress.close()
        before = len(drawn.getvalue())
        time.sleep(0.3)
        assert before == len(drawn.getvalue()) > 0
