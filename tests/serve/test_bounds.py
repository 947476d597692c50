"""Large requests: measured first, checked at once, and never in the way of short ones."""

import json
import logging
import random
import re
import threading
import time
from io import StringIO

import pytest

from helpers.rtn_checkpoints import rounded_toy
from helpers.served_app import served, until
from salient.core.errors import RequestError
from salient.runtime import tokenization
from salient.serve import app as serve_app
from salient.serve import completions
from salient.serve.app import AppSettings
from salient.serve.bounded_threads import BoundedThreads, request_threads
from salient.serve.json_size import PART, JsonSize, check_size, json_size
from salient.serve.limited_log import BURST_BYTES, BYTES_A_MINUTE, LimitedHandler
from salient.serve.openai_format import json_pieces

SHORT = {"prompt": "one two three", "max_tokens": 4, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = rounded_toy(tmp_path_factory.mktemp("served"))
    with served(folder, AppSettings("toy"), context_length=128) as running:
        yield running


# Sizes


def random_json(seeded: random.Random, depth: int = 0):
    kind = seeded.randrange(6 if depth < 5 else 4)
    if kind == 4:
        return [random_json(seeded, depth + 1) for _ in range(seeded.randrange(5))]
    if kind == 5:
        names = ('a"', "b\\", "[", "{,:", '\u00e9\\"')
        return {name: random_json(seeded, depth + 1) for name in names[: seeded.randrange(6)]}
    return seeded.choice([None, True, -1.5, "", 'x"]}', "\\", '\\\\"', "a,b:c", "{" * 9])


def sizes(value, depth: int = 0) -> tuple[int, int, int]:
    """Depth, containers and keys."""
    if not isinstance(value, (list, dict)):
        return depth, 0, 0
    items = value.values() if isinstance(value, dict) else value
    inner = [sizes(item, depth + 1) for item in items]
    keys = len(value) if isinstance(value, dict) else 0
    return (
        max((i[0] for i in inner), default=depth + 1),
        1 + sum(i[1] for i in inner),
        keys + sum(i[2] for i in inner),
    )


def test_the_size_of_json_is_that_of_its_values(monkeypatch):
    seeded = random.Random(0)
    for _ in range(200):
        value = [random_json(seeded) for _ in range(20)]
        size = json_size(json.dumps(value, ensure_ascii=seeded.random() < 0.5).encode())
        assert (size.depth, size.containers, size.keys) == sizes(value)


def test_the_size_counts_across_parts():
    text = json.dumps(["[" * (PART - 3), '"' * PART, [[]] * 1000]).encode()
    assert json_size(text) == JsonSize(3, 1002, 0, 2, 2004)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" * 5000, "5000 nested levels"),
        ("[" + "{}," * 20_000 + "0]", "20001 containers"),
        (json.dumps(dict.fromkeys(map(str, range(40_000)))), "40000 keys"),
        (json.dumps([""] * 40_000), "40000 strings"),
        ("[" + "0," * 600_000 + "0]", "600002 values"),
    ],
)
def test_a_json_text_too_large_in_any_respect_is_refused(text, what):
    with pytest.raises(RequestError, match=f"The body has {what}; this server reads up to"):
        check_size(text.encode())


@pytest.mark.parametrize("value", [{}, [], [1] * 1000, {"a": [{"b": "\u00e9"}] * 600, "c": None}])
def test_json_in_pieces_is_the_same_json(value):
    assert "".join(json_pieces(value)) == json.dumps(value, ensure_ascii=False)


# Requests


def with_schema(schema) -> dict:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return {**SHORT, "response_format": form}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("completions", {"prompt": [-1] * 400_000}, "token ids are integers from 0"),
        ("completions", {"prompt": [1] * 400_000 + [True]}, "give only token ids"),
        ("completions", {"prompt": [[1.5] * 5000] * 64}, "give only token ids"),
        ("completions", {"prompt": ["a", 1, [2]]}, "give only texts, or only lists"),
        ("completions", {"prompt": [[1]] * 65}, "65 prompts are too many; give up to 64"),
        ("completions", {"prompt": {"a": 1}}, "give a text, a list of token ids"),
        ("completions", {"prompt": [[]]}, "give at least one token id"),
        ("completions", {"prompt": [5] * 200_000}, "no room for an answer"),
        ("completions", {"prompt": "lorem ipsum " * 50_000}, "no room for an answer"),
        ("completions", {"prompt": "a" * (2**21 + 1)}, "more than 2097152 characters"),
        ("completions", {"prompt": ["a"] * 64, "n": 16}, "1024 answers .* up to 256"),
        (
            "completions",
            {"prompt": ["a"] * 16, "n": 16, "max_tokens": 128, "logprobs": 20},
            "688128 tokens and log probabilities are too many",
        ),
        ("completions", with_schema({"enum": ["x" * 3000]}), "a text in the schema has more than"),
        (
            "completions",
            with_schema({"enum": ["x" * 1000] * 66}),
            "the schema has more than 65536 characters",
        ),
        ("completions", b'{"prompt": ' + b"[" * 200_000, "200001 nested levels"),
        ("completions", b'{"prompt": "' + b"\xff" * 9000 + b'"}', "The body is no JSON in UTF-8"),
        ("completions", b'{"seed": ' + b"9" * 9000 + b"}", "The body is no JSON in UTF-8"),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "hi " * 99_999}]},
            "no room",
        ),
    ],
)
def test_a_large_request_is_refused_by_its_size_or_its_first_fault(path, body, message, server):
    began = time.monotonic()
    reply = server.request(f"/v1/{path}", body)
    assert reply.status == 400
    assert re.search(message, reply.error["message"])
    assert time.monotonic() - began < 20  # on a busy machine; it was minutes


def test_a_body_needs_its_content_type(server):
    """A page of another origin can post plain text without being asked."""
    for kind in ("text/plain", "", "application/x-www-form-urlencoded"):
        reply = server.request("/v1/completions", SHORT, **{"Content-Type": kind})
        assert reply.status == 400
        assert "Content-Type: application/json" in reply.error["message"]


def test_a_short_completion_does_not_wait_for_large_requests(server):
    def flood(path: str, body: bytes) -> None:
        while not stop.is_set():
            server.request(path, body)

    large = {
        "/tokenize": json.dumps({"prompt": "lorem ipsum " * 6000}).encode(),
        "/v1/completions": json.dumps({"prompt": [-1] * 40_000}).encode(),
    }
    stop = threading.Event()
    threads = [threading.Thread(target=flood, args=item) for item in large.items()]
    for thread in threads:
        thread.start()
    try:
        times = []
        for _ in range(3):
            began = time.monotonic()
            assert server.request("/v1/completions", SHORT).status == 200
            times.append(time.monotonic() - began)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert min(times) < 2


def test_a_text_far_over_the_context_is_not_tokenized_whole(server, monkeypatch):
    sizes = []
    encode = tokenization.encode
    monkeypatch.setattr(
        tokenization, "encode", lambda t, x, **o: sizes.append(len(x)) or encode(t, x, **o)
    )
    monkeypatch.setattr(tokenization, "PIECE", 200)
    with pytest.raises(RequestError, match="no room for an answer"):
        tokenization.prompt_ids(server.engine.tokenizer, "one two three " * 60, 64)
    assert sum(sizes) < 840
    with pytest.raises(RequestError, match="no room for an answer"):
        tokenization.prompt_ids(server.engine.tokenizer, "x" * 10**6, 64)
    assert len(sizes) < 10


def test_detokenize_is_the_inverse_of_tokenize(server):
    ids = server.request("/tokenize", {"prompt": "one two", "add_special_tokens": False}).data
    reply = server.request("/detokenize", {"tokens": ids["tokens"]})
    assert reply.data == {"prompt": server.engine.tokenizer.decode(ids["tokens"])}
    assert server.request("/detokenize", {"tokens": [10**6]}).status == 400
    assert (
        "65537 token ids are too many"
        in (server.request("/detokenize", {"tokens": [1] * 65_537}).error["message"])
    )


def test_the_openapi_document_describes_the_bodies(server):
    document = server.request("/openapi.json").data
    for path, name in {
        "completions": "CompletionRequest",
        "chat/completions": "ChatMessage",
    }.items():
        assert "requestBody" in document["paths"][f"/v1/{path}"]["post"]
        assert name in document["components"]["schemas"]
    assert "#/$defs" not in json.dumps(document)


# What does not answer


def test_ready_is_false_while_the_engine_does_not_answer(server, monkeypatch):
    monkeypatch.setattr(serve_app, "READY_SECONDS", 0.2)
    monkeypatch.setattr(server.worker, "_longest", 0.01)
    assert server.request("/ready").status == 200
    release = threading.Event()
    step = server.engine.step
    monkeypatch.setattr(server.engine, "step", lambda: release.wait(20) and step())
    waiting = threading.Thread(target=server.request, args=("/v1/completions", SHORT))
    waiting.start()
    try:
        until(lambda: server.request("/ready").status == 503, 10)
        assert "engine does not answer" in server.request("/ready").error["message"]
        assert server.request("/health").status == 200
        monkeypatch.setattr(serve_app, "ALIVE_SECONDS", 0.2)
        assert server.request("/health").status == 503
    finally:
        release.set()
        waiting.join()
    until(lambda: server.request("/ready").status == 200)


def test_ready_is_false_while_the_threads_do_not_answer(server, monkeypatch):
    class Hanging(BoundedThreads):
        threads, most, refusal = 1, 3, "three tasks wait"

    monkeypatch.setattr(serve_app, "READY_SECONDS", 0.2)
    hanging, release = Hanging(), threading.Event()
    monkeypatch.setattr(request_threads, "_texts", (hanging, hanging))
    for _ in range(2):
        hanging.submit(lambda: release.wait(20))
    until(lambda: server.request("/ready").status == 503, 10)
    assert "threads that read requests" in server.request("/ready").error["message"]
    hanging.submit(lambda: None)
    assert server.request("/v1/completions", SHORT).status == 429
    release.set()
    until(lambda: server.request("/ready").status == 200)


def test_a_thread_for_large_bodies_rests_after_its_task():
    class Resting(BoundedThreads):
        threads, most, refusal, rest = 1, 3, "", 3.0

    resting, began = Resting(), time.monotonic()
    resting.submit(lambda: time.sleep(0.1))
    resting.submit(lambda: None).result(timeout=20)
    assert time.monotonic() - began >= 0.4


def test_a_full_server_refuses_a_request_before_it_reads_it(server, monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(server.worker, "_open", 10_000)
    monkeypatch.setattr(completions, "read_body", never)
    reply = server.request("/v1/completions", SHORT)
    assert reply.status == 429
    assert "running or waiting" in reply.error["message"]


def test_a_request_that_the_engine_cannot_take_ends_no_thread(server, monkeypatch):
    def broken(*_):
        raise TypeError("a fault")

    with monkeypatch.context() as patch:
        patch.setattr(server.engine, "submit", broken)
        assert server.request("/v1/completions", SHORT).status == 500
    assert server.request("/v1/completions", SHORT).status == 200


# The log


def test_the_log_is_limited_and_counts_what_it_leaves_out():
    now, text = [0.0], StringIO()
    handler = LimitedHandler(text, lambda: now[0])
    record = logging.LogRecord("salient.access", logging.INFO, "", 0, "x" * 99, None, None)
    for _ in range(50_000):
        handler.handle(record)
        now[0] += 60 / 50_000
    assert len(text.getvalue()) < BURST_BYTES + 1.01 * BYTES_A_MINUTE
    assert "lines of the log were left out)\n" in text.getvalue()
    record.msg = "y" * 10**6
    now[0] += 60
    handler.handle(record)
    assert text.getvalue().endswith("... (cut)\n")
