"""load-test from the command line: figures of a real server, and words for what cannot be asked."""

import json

import pytest
from typer.testing import CliRunner

from helpers.toy_server import Manner, toy_server
from salient.cli import app

FEW = ("--model", "toy", "--requests", "6", "--prompt-tokens", "8", "--new-tokens", "4")


def call(*arguments: object):
    return CliRunner().invoke(app, ["load-test", *map(str, arguments)])


def test_each_step_has_its_figures_in_one_document():
    with toy_server(Manner(first=0.02, gap=0.005)) as server:
        result = call(server.url, *FEW, "--concurrency", "1,3", "--json")
    steps = json.loads(result.stdout)["steps"]
    assert result.exit_code == 0, result.stderr
    assert [step["concurrency"] for step in steps] == [1, 3]
    assert all(step["completed"] == 6 for step in steps)
    assert all(step["ttft"]["p50"] >= 20 for step in steps)


def test_people_see_a_row_for_each_step():
    with toy_server(Manner()) as server:
        result = call(server.url, *FEW, "--rate", "200")
    assert result.exit_code == 0, result.stderr
    assert "200/s" in result.stdout
    assert "P50 / P90 / P99" in result.stdout


def test_a_server_that_fails_is_told_and_does_not_pass():
    with toy_server(Manner(raw=b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n")) as server:
        result = call(server.url, *FEW, "--concurrency", "2")
    assert result.exit_code == 1
    assert "no request completed" in result.stdout


def test_the_key_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-toy")
    with toy_server(Manner()) as server:
        call(server.url, *FEW, "--concurrency", "1")
        assert server.seen.headers[0]["authorization"] == "Bearer sk-toy"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ftp://x", *FEW), "no http or https address"),
        (("http://localhost:1", *FEW, "--concurrency", "one"), "--concurrency 'one' is no list"),
        (("http://localhost:1", *FEW, "--concurrency", "0"), "give 1 to"),
        (("http://localhost:1", *FEW, "--requests", "0"), "requests=0"),
        (("http://localhost:1", *FEW, "--rate", "-1"), "rate=-1"),
        (("http://localhost:1", *FEW, "--timeout", "0"), "timeout=0"),
    ],
)
def test_what_cannot_be_asked_exits_with_2_and_what_fits(arguments, words):
    result = call(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
