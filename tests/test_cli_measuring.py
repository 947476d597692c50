"""`salient load-test`: figures of a real server, and messages for invalid options."""

import json

import pytest

from helpers.cli import invoke
from helpers.toy_server import Manner, toy_server

FEW = ("--model", "toy", "--requests", "6", "--prompt-tokens", "8", "--max-new-tokens", "4")


def call(*arguments: object):
    return invoke("load-test", *arguments)


def test_each_step_has_its_figures_in_one_document():
    with toy_server(Manner(first=0.02, gap=0.005)) as server:
        result = call(server.url, *FEW, "--concurrency", "1,3", "--json")
    steps = json.loads(result.stdout)["steps"]
    assert result.exit_code == 0, result.stderr
    assert [step["concurrency"] for step in steps] == [1, 3]
    assert all(step["completed"] == 6 for step in steps)
    assert all(step["ttft"]["p50"] >= 20 for step in steps)


def test_the_table_has_a_row_for_each_step():
    with toy_server(Manner()) as server:
        result = call(server.url, *FEW, "--rate", "200")
    assert result.exit_code == 0, result.stderr
    assert "200/s" in result.stdout
    assert "P50 / P90 / P99" in result.stdout


def test_a_failing_server_does_not_pass():
    with toy_server(Manner(raw=b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")) as server:
        result = call(server.url, *FEW, "--concurrency", "2")
    assert result.exit_code == 1
    assert "no request completed" in result.stdout


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-toy")
    with toy_server(Manner()) as server:
        call(server.url, *FEW, "--concurrency", "1")
        assert server.requests.headers[0]["authorization"] == "Bearer sk-toy"


def test_without_a_model_the_server_lists_its_own():
    result = call("http://127.0.0.1:9", "--requests", "6")
    assert result.exit_code == 2
    assert "/v1/models does not answer" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ftp://x", *FEW), "not an http or https address"),
        (("http://localhost:1", *FEW, "--concurrency", "one"), "--concurrency 'one' is not a list"),
        (("http://localhost:1", *FEW, "--concurrency", "0"), "use 1 to"),
        (("http://localhost:1", *FEW, "--requests", "0"), "requests=0"),
        (("http://localhost:1", *FEW, "--rate", "-1"), "rate=-1"),
        (("http://localhost:1", *FEW, "--timeout", "0"), "timeout=0"),
    ],
)
def test_invalid_options_exit_with_2_and_valid_values(arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
