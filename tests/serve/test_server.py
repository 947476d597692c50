"""The server: the engine's output in OpenAI's form; nothing breaks it, nothing leaks."""

import contextlib
import http.client
import json
import logging
import math
import threading

import pytest

from helpers.engines import never_dense, opened
from helpers.rtn_checkpoints import rounded_toy
from helpers.served_app import served, until
from helpers.tolerance import logits_rounding
from salient.core.errors import RequestError
from salient.runtime.sampling_params import SamplingParams
from salient.serve.app import AppSettings
from salient.serve.http_server import bind

PROMPT = "one two three"
GREEDY = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
TALK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}


def by_schema(schema) -> dict:
    """The fields that request JSON by `schema`."""
    form = {"type": "json_schema", "json_schema": {"name": "body", "schema": schema}}
    return {"response_format": form}


def nested(depth: int) -> dict:
    schema = {"type": "string", "pattern": "(a{1,9000}){1,9000}"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


DEEP = nested(100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return rounded_toy(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def server(folder):
    with pytest.MonkeyPatch.context() as patch:
        never_dense(patch)
        with served(folder, AppSettings("toy"), max_waiting=4, context_length=128) as running:
            yield running


def alone(folder, **sampling):
    """What the engine says without a server."""
    with pytest.MonkeyPatch.context() as patch:
        never_dense(patch)
        engine = opened(folder, context_length=128).engine
    ids = engine.tokenizer(PROMPT).input_ids
    (answer,) = engine.generate([ids], SamplingParams(8, ignore_eos=True, **sampling))
    return answer


# Answers


def test_a_completion_is_the_engines_text(server, folder):
    wanted = alone(folder)
    reply = server.request("/v1/completions", GREEDY)
    assert reply.status == 200
    (choice,) = reply.data["choices"]
    assert choice["text"] == wanted.text
    assert choice["finish_reason"] == "length"
    count = len(wanted.prompt)
    assert reply.data["usage"] == {
        "prompt_tokens": count,
        "completion_tokens": 8,
        "total_tokens": count + 8,
    }
    assert (reply.data["object"], reply.data["model"]) == ("text_completion", "toy")


def test_a_joined_stream_is_the_complete_text(server):
    whole = server.request("/v1/completions", GREEDY).data["choices"][0]["text"]
    body = {**GREEDY, "stream": True, "stream_options": {"include_usage": True}}
    *events, last = server.request("/v1/completions", body).events
    assert "".join(e["choices"][0]["text"] for e in events) == whole
    assert [e["choices"][0]["finish_reason"] for e in events] == [None] * 7 + ["length"]
    assert {e["id"] for e in events} == {last["id"]}
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 8)


def test_a_chat_has_the_same_text_streamed_and_not(server):
    whole = server.request("/v1/chat/completions", TALK)
    message = whole.data["choices"][0]["message"]
    events = server.request("/v1/chat/completions", {**TALK, "stream": True}).events
    deltas = [e["choices"][0]["delta"] for e in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d.get("content", "") for d in deltas) == message["content"]
    assert {e["object"] for e in events} == {"chat.completion.chunk"}
    assert whole.data["object"] == "chat.completion"
    assert "usage" not in events[-1]


def test_several_prompts_and_choices_are_numbered_prompt_by_prompt(server):
    body = {**GREEDY, "prompt": [PROMPT, "another"], "n": 2}
    choices = server.request("/v1/completions", body).data["choices"]
    assert [c["index"] for c in choices] == [0, 1, 2, 3]
    assert choices[0]["text"] == choices[1]["text"]
    assert (
        choices[0]["text"] == server.request("/v1/completions", GREEDY).data["choices"][0]["text"]
    )
    other = server.request("/v1/completions", {**GREEDY, "prompt": "another"}).data["choices"][0]
    assert choices[2]["text"] == other["text"]


def test_the_choices_of_a_seed_differ_and_repeat(server):
    body = {**GREEDY, "temperature": 1.5, "seed": 3, "n": 3}
    first, second = (
        [c["text"] for c in server.request("/v1/completions", body).data["choices"]]
        for _ in range(2)
    )
    assert first == second
    assert len(set(first)) == 3


def test_a_prompt_can_be_token_ids(server):
    ids = server.request("/tokenize", {"prompt": PROMPT}).data["tokens"]
    assert ids == server.engine.tokenizer(PROMPT).input_ids
    by_ids = server.request("/v1/completions", {**GREEDY, "prompt": ids}).data["choices"][0]["text"]
    assert by_ids == server.request("/v1/completions", GREEDY).data["choices"][0]["text"]


def test_token_ids_are_returned_on_request_streamed_and_not(server, folder):
    wanted = [p.token for p in alone(folder).picked]
    body = {**GREEDY, "return_token_ids": True}
    assert server.request("/v1/completions", body).data["choices"][0]["token_ids"] == wanted
    events = server.request("/v1/completions", {**body, "stream": True}).events
    assert [i for e in events for i in e["choices"][0]["token_ids"]] == wanted
    assert "token_ids" not in server.request("/v1/completions", GREEDY).data["choices"][0]


def test_log_probabilities_are_the_engines(server, folder):
    wanted = alone(folder, logprobs=2).picked
    logprobs = server.request("/v1/completions", {**GREEDY, "logprobs": 2}).data["choices"][0][
        "logprobs"
    ]
    rounding = 2 * logits_rounding(coded=True)
    assert logprobs["token_logprobs"] == pytest.approx([p.logprob for p in wanted], abs=rounding)
    assert len(logprobs["tokens"]) == len(logprobs["text_offset"]) == 8
    for top, picked in zip(logprobs["top_logprobs"], wanted, strict=True):
        assert max(top.values()) == pytest.approx(picked.top[0][1], abs=rounding)
    talk = {**TALK, "logprobs": True, "top_logprobs": 3}
    (choice,) = server.request("/v1/chat/completions", talk).data["choices"]
    for token in choice["logprobs"]["content"]:
        assert len(token["top_logprobs"]) == 3
        assert math.exp(token["logprob"]) <= 1
        assert bytes(token["bytes"]).decode(errors="replace") == token["token"]


def test_a_stop_string_ends_the_text_and_is_cut_off(server):
    text = server.request("/v1/completions", GREEDY).data["choices"][0]["text"]
    stop = text[3:5]
    (choice,) = server.request("/v1/completions", {**GREEDY, "stop": stop}).data["choices"]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("temperature", [0, 2])
def test_a_schema_gives_json_of_that_schema(temperature, server):
    """Whatever the random model prefers; and the text ends by itself."""
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    body = {
        **GREEDY,
        **by_schema(schema),
        "max_tokens": 100,
        "temperature": temperature,
        "n": 2,
        "seed": 4,
    }
    for choice in server.request("/v1/completions", body).data["choices"]:
        value = json.loads(choice["text"])
        assert value["mood"] in ("good", "bad")
        assert set(value) == {"mood"}
        assert choice["finish_reason"] == "stop"


def test_json_mode_gives_an_object_and_leaves_other_requests_alone(server):
    before = server.request("/v1/completions", GREEDY).data["choices"][0]["text"]
    body = {**TALK, "response_format": {"type": "json_object"}}
    (choice,) = server.request("/v1/chat/completions", body).data["choices"]
    assert choice["message"]["content"].startswith("{")
    assert server.request("/v1/completions", GREEDY).data["choices"][0]["text"] == before


# Names and doors


def test_the_model_is_listed_and_others_are_refused(server):
    assert [m["id"] for m in server.request("/v1/models").data["data"]] == ["toy"]
    assert server.request("/v1/models/toy").data["max_model_len"] == 128
    for reply in (
        server.request("/v1/models/other"),
        server.request("/v1/completions", {**GREEDY, "model": "other"}),
    ):
        assert reply.status == 404
        assert "no model 'other' here; this server has 'toy'" in reply.error["message"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("completions", {}, "prompt: Field required"),
        ("completions", {**GREEDY, "n": 0}, "n: Input should be greater than or equal to 1"),
        ("completions", {**GREEDY, "n": 10**9}, "n: Input should be less than or equal to 16"),
        ("completions", {**GREEDY, "max_tokens": 0}, "max_tokens"),
        ("completions", {**GREEDY, "prompt": []}, "prompt"),
        ("completions", {**GREEDY, "prompt": ""}, "no tokens"),
        ("completions", {**GREEDY, "prompt": [999999]}, "the token 999999"),
        ("completions", {**GREEDY, "prompt": [-1]}, "prompt"),
        ("completions", {**GREEDY, "prompt": "x" * 4000}, "no room for an answer"),
        ("completions", {**GREEDY, "prompt": "\ud800"}, "half a character"),
        ("completions", {**GREEDY, "temperature": -1}, "temperature=-1.0 cannot be used"),
        ("completions", {**GREEDY, "temperature": "hot"}, "temperature"),
        ("completions", {**GREEDY, "top_p": 0}, "top_p=0.0 cannot be used"),
        ("completions", {**GREEDY, "logprobs": 21}, "logprobs"),
        ("completions", {**GREEDY, "stop": ["a"] * 17}, "stop"),
        ("completions", {**GREEDY, "suffix": "x"}, "suffix is not supported by this server"),
        ("completions", {**GREEDY, "echo": True}, "echo"),
        ("completions", {**GREEDY, "best_of": 3}, "best_of other than n is not supported"),
        ("completions", {**GREEDY, "logit_bias": {"1": 5}}, "logit_bias is not supported"),
        ("completions", {**GREEDY, "response_format": {"type": "grammar"}}, "response_format"),
        (
            "completions",
            {**GREEDY, "response_format": {"type": "json_schema"}},
            "needs json_schema",
        ),
        ("completions", {**GREEDY, **by_schema({"type": "objekt"})}, "Invalid type: objekt"),
        ("completions", {**GREEDY, **by_schema(DEEP)}, "Schema cannot be followed"),
        ("completions", b"{", "JSON"),
        ("completions", b"\xff", ""),
        ("completions", [], ""),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "king", "content": "a"}]}, "role"),
        ("chat/completions", {**TALK, "tools": [{"type": "function"}]}, "tools is not supported"),
        ("chat/completions", {**TALK, "top_logprobs": 2}, "top_logprobs needs logprobs"),
    ],
)
def test_invalid_requests_are_a_400_in_openais_form(path, body, message, server):
    reply = server.request(f"/v1/{path}", body)
    assert reply.status == 400, reply.body
    assert message in reply.error["message"]
    assert reply.error["type"] == "invalid_request_error"
    assert "Traceback" not in reply.error["message"]
    assert "/" not in reply.error["message"].replace("and/or", "")


def test_unknown_paths_and_wrong_methods_are_refused(server):
    assert server.request("/v1/nothing").status == 404
    assert server.request("/v1/completions").status == 405
    assert server.request("/v1/nothing").error["type"] == "invalid_request_error"


def test_a_body_over_the_limit_is_refused_unread(folder, monkeypatch):
    never_dense(monkeypatch)
    with served(folder, AppSettings("toy", max_body=1000)) as small:
        reply = small.request("/v1/completions", {**GREEDY, "prompt": "x" * 2000})
        assert reply.status == 413
        assert "limit of 1000 bytes" in reply.error["message"]
        connection = http.client.HTTPConnection("127.0.0.1", small.port, timeout=10)
        pieces = iter([b'{"prompt": "'] + [b"x" * 500] * 10)
        connection.request("POST", "/v1/completions", pieces, {"Content-Type": "application/json"})
        with contextlib.closing(connection):
            assert connection.getresponse().status == 413
        assert small.request("/v1/completions", GREEDY).status == 200


def test_without_the_key_only_health_is_open(folder, monkeypatch):
    never_dense(monkeypatch)
    with served(folder, AppSettings("toy", api_key="secret")) as guarded:
        for path in ("/health", "/ready", "/metrics", "/version"):
            assert guarded.request(path).status == 200
        for key in ("", "Bearer", "Bearer secre", "Bearer secrets", "Basic secret", "secret"):
            reply = guarded.request("/v1/models", Authorization=key)
            assert reply.status == 401
            assert "secret" not in reply.error["message"]
        assert guarded.request("/v1/models", Authorization="Bearer secret").status == 200


@pytest.fixture(scope="module")
def local(folder):
    with pytest.MonkeyPatch.context() as patch:
        never_dense(patch)
        with served(folder, AppSettings("toy", only_local=True)) as running:
            yield running


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:80", 403),
        ("[evil]", 403),
        ("", 403),
        ("\xff", 403),
    ],
)
def test_a_local_server_serves_only_its_own_names(host, status, local):
    """Else any page could have its own name lead here, and read along."""
    reply = local.request("/v1/models", Host=host)
    assert reply.status == status
    assert status == 200 or "serves only localhost" in reply.error["message"]


def test_a_port_in_use_is_refused():
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(RequestError, match=rf"Cannot listen on 127.0.0.1:{port} .* --port"):
            bind("127.0.0.1", port)


# Under way


def left_early(server, body) -> None:
    """Begin a stream, read a little, and go."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    if body.get("stream"):
        connection.getresponse().read(10)
    connection.sock.close()
    connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_cancels_the_request(stream, server):
    before = server.metric("request_success_total")
    slow = {**GREEDY, "max_tokens": 120, "n": 6, "stream": stream}
    left_early(server, slow)
    until(lambda: server.metric("num_requests_running") == 0)
    assert server.metric("generation_tokens_total") >= 0
    assert server.metric("request_success_total") <= before + 6
    until(lambda: server.request("/v1/completions", GREEDY).status == 200)


def test_requests_over_the_limit_are_refused_with_retry_after(server):
    """2 slots and 4 places to wait: of 30 requests at once some are refused, none is lost."""
    replies = []
    body = {**GREEDY, "max_tokens": 100}
    threads = [
        threading.Thread(target=lambda: replies.append(server.request("/v1/completions", body)))
        for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = [reply.status for reply in replies]
    assert set(codes) == {200, 429}
    assert codes.count(200) >= 6
    refused = next(r for r in replies if r.status == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.error["type"] == "rate_limit_error"
    texts = {r.data["choices"][0]["text"] for r in replies if r.status == 200}
    assert len(texts) == 1


def test_the_access_log_has_a_line_a_request_without_its_text(server, caplog):
    caplog.set_level(logging.INFO, "salient.access")
    server.request("/v1/completions", {**GREEDY, "prompt": "a very secret prompt"})
    until(lambda: any("/v1/completions" in r.message for r in caplog.records))
    line = json.loads(next(r.message for r in caplog.records if "/v1/comp" in r.message))
    assert (line["method"], line["status"]) == ("POST", 200)
    assert "secret" not in caplog.text


def test_the_counters_count(server):
    before = {n: server.metric(f"{n}_total") for n in ("prompt_tokens", "generation_tokens")}
    usage = server.request("/v1/completions", {**GREEDY, "n": 2}).data["usage"]
    until(lambda: server.metric("num_requests_running") == 0)
    assert server.metric("prompt_tokens_total") - before["prompt_tokens"] == usage["prompt_tokens"]
    count = server.metric("generation_tokens_total") - before["generation_tokens"]
    assert count == usage["completion_tokens"] == 16


def test_a_broken_engine_shows_in_responses_and_health(folder, monkeypatch):
    never_dense(monkeypatch)
    with served(folder, AppSettings("toy"), context_length=128) as broken:

        def fails(*_):
            raise RuntimeError("the model's secret path /models/x")

        monkeypatch.setattr(broken.engine.runner, "prefill", fails)
        reply = broken.request("/v1/completions", GREEDY)
        assert reply.status == 503
        assert "/models" not in reply.error["message"]
        assert broken.request("/health").status == broken.request("/ready").status == 503
        assert broken.request("/v1/completions", GREEDY).status == 503
