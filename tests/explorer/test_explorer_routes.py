"""The explorer over HTTP: its page uses only this server, bad queries are 400, nothing leaks."""

import re
from importlib.resources import files

import pytest

from helpers.engines import never_dense
from helpers.explorer_state import explorer_app, explorer_state
from helpers.rtn_checkpoints import rounded_toy
from helpers.served_app import until
from helpers.tolerance import kl_rounding
from salient.runtime.engine import Engine

API = "/explorer/api"
GROUP = f"{API}/group?block=0&layer=mlp.up_proj&group_size=32"
TALK = {"messages": [{"role": "user", "content": "hello"}]}
PAGE = files("salient.explorer") / "static"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served-explorer")
    rounded_toy(folder)
    return folder


@pytest.fixture(scope="module")
def server(home):
    with pytest.MonkeyPatch.context() as patch:
        never_dense(patch)
        state = explorer_state(home / "rounded", home / "model", context_length=128)
        with explorer_app(state) as running:
            running.request(f"{API}/scene")
            until(lambda: running.request(f"{API}/progress").data["state"] == "ready")
            yield running


@pytest.fixture(scope="module")
def alone(home):
    """Without a reference, and behind a key."""
    with explorer_app(explorer_state(home / "rounded"), api_key="sesame") as running:
        yield running


# The page


def test_the_page_allows_nothing_but_this_server(server):
    reply = server.request("/")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "frame-ancestors 'none'" in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"


def test_every_file_of_the_page_exists_and_is_used(server):
    named = set(re.findall(r'"/explorer/([\w.]+)"', server.request("/").body.decode()))
    left = list(named)
    while left:
        script = server.request(f"/explorer/{left.pop()}").body.decode()
        imported = set(re.findall(r'from "\./([\w.]+)"', script)) - named
        named |= imported
        left += imported
    there = {entry.name for entry in PAGE.iterdir()} - {"index.html"}
    assert named == there
    assert all(server.request(f"/explorer/{name}").status == 200 for name in there)


@pytest.mark.parametrize("name", [entry.name for entry in PAGE.iterdir()])
def test_no_file_of_the_page_requests_elsewhere_or_writes_markup(name):
    text = (PAGE / name).read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "style="):
        assert word not in text


@pytest.mark.parametrize(
    "path", ["/explorer/nothing.js", "/explorer/..%2Froutes.py", "/explorer/%2Fetc%2Fpasswd"]
)
def test_no_other_file_is_served(server, path):
    assert server.request(path).status == 404


def test_with_a_key_the_page_is_open_and_its_data_are_not(alone):
    for path in ("/", "/explorer/main.js", "/explorer/style.css"):
        assert alone.request(path).status == 200
    for path in ("scene", "progress", "running", "block?block=0", "group?block=0&layer=x"):
        assert alone.request(f"{API}/{path}").status == 401
        assert alone.request(f"{API}/{path}", Authorization="Bearer sesame").status in (200, 400)
    assert alone.request(f"{API}/divergence", {**TALK, "answer": "x"}).status == 401


# Its data


def test_every_panel_has_data(server):
    scene = server.request(f"{API}/scene").data
    assert (scene["model"], scene["reference"], scene["chat"]) == ("toy", "full", True)
    block = server.request(f"{API}/block?block=1").data
    layer = block["inputs"][0]["readers"][0]["name"]
    for panel in ("salience", "curve"):
        assert server.request(f"{API}/{panel}?block=1&layer={layer}").data["why"] == ""
    assert server.request(GROUP).data["errors"]["now"]["layer"] > 0
    assert server.request(f"{API}/running").data["total"] > 0


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("block", "block: Field required"),
        ("block?block=-1", "block: Input should be greater than or equal to 0"),
        ("block?block=2", "There is no block 2: the model has 2, from 0."),
        ("salience?block=0", "layer: Field required"),
        ("salience?block=0&layer=../../etc", "Block 0 has no linear '../../etc'"),
        ("curve?block=x&layer=mlp.up_proj", "block: Input should be a valid integer"),
        ("group?block=0&layer=mlp.up_proj&bits=1", "bits: Input should be greater than or equal"),
        ("group?block=0&layer=mlp.up_proj&bits=9", "bits: Input should be less than or equal to 8"),
        ("group?block=0&layer=mlp.up_proj&clip=0", "clip: Input should be greater than or equal"),
        ("group?block=0&layer=mlp.up_proj&clip=nan", "clip: Input should be"),
        ("group?block=0&layer=mlp.up_proj&a=inf", "a: Input should be"),
        ("group?block=0&layer=mlp.up_proj&b=3", "b: Input should be less than or equal to 2"),
        ("group?block=0&layer=mlp.up_proj&row=96&group_size=32", "There is no row 96"),
        ("group?block=0&layer=mlp.up_proj&group=9&group_size=32", "There is no group 9"),
        ("group?block=0&layer=mlp.up_proj&group_size=48", "A group size of 48 does not divide"),
        ("group?block=0&layer=mlp.up_proj&group_size=0", "group_size: Input should be greater"),
        (f"salience?block=0&layer={'x' * 301}", "layer: String should have at most 300"),
    ],
)
def test_invalid_queries_are_refused_in_openais_form(server, path, message):
    reply = server.request(f"{API}/{path}")
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"
    assert message in reply.error["message"]


def test_without_a_source_panels_show_what_is_missing(alone):
    alone.headers["Authorization"] = "Bearer sesame"
    scene = alone.request(f"{API}/scene").data
    assert "`--reference MODEL`" in scene["no_source"]
    data = alone.request(GROUP)
    assert data.status == 200
    assert "`--reference MODEL`" in data.data["why"]
    for path in ("reference/chat", "reference/completions", "divergence"):
        body = {**TALK, "answer": "x", "prompt": "x"} if path != "divergence" else None
        reply = alone.request(f"{API}/{path}", body or {"prompt": "x", "answer": "x"})
        assert reply.status == 400
        assert "No 16-bit reference runs next to this checkpoint" in reply.error["message"]
    del alone.headers["Authorization"]


# The reference


def test_the_reference_streams_next_to_the_checkpoint(server):
    body = {**TALK, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    whole = server.request(f"{API}/reference/chat", body).data
    assert whole["model"] == "full"
    events = server.request(f"{API}/reference/chat", {**body, "stream": True}).events
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
    assert text == whole["choices"][0]["message"]["content"]
    plain = {"prompt": "one two", "max_tokens": 4, "temperature": 0}
    assert server.request(f"{API}/reference/completions", plain).data["model"] == "full"


def test_each_token_of_an_answer_has_its_kl(server):
    data = server.request(f"{API}/divergence", {**TALK, "answer": "some words"}).data
    tokens = data["tokens"]
    assert "".join(t["text"] for t in tokens) == "some words"
    assert data["mean_kl"] == pytest.approx(sum(t["kl"] for t in tokens) / len(tokens))
    assert data["mean_kl"] > 0
    for token in tokens:
        assert token["kl"] >= 0
        for side in ("reference", "quantized"):
            p = [each["p"] for each in token[side]]
            assert len(p) == 5
            assert p == sorted(p, reverse=True)
            assert sum(p) <= 1.001
        assert token["same"] == (token["reference"][0]["text"] == token["quantized"][0]["text"])


def test_a_model_next_to_itself_has_no_divergence(home):
    with explorer_app(explorer_state(home / "rounded", home / "rounded")) as running:
        data = running.request(f"{API}/divergence", {"prompt": "one two", "answer": " three"}).data
    assert data["mean_kl"] < kl_rounding(0)
    assert data["agreed"] == 1.0


def test_a_long_answer_is_cut_to_the_context(server):
    data = server.request(f"{API}/divergence", {"prompt": "p" * 100, "answer": "a" * 60}).data
    assert len(data["tokens"]) + data["cut"] == 60
    assert data["cut"] > 20


def test_a_long_prompt_in_chunks_gives_the_same(server):
    body, lengths = {"prompt": "p" * 70, "answer": "aaa"}, []
    whole = server.request(f"{API}/divergence", body).data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("salient.explorer.divergence.CHUNK", 32)
        logits = Engine.logits
        patch.setattr(Engine, "logits", lambda *args: lengths.append(len(args[1])) or logits(*args))
        pieces = server.request(f"{API}/divergence", body).data
    assert sorted(lengths) == sorted(2 * [32, 64, 72])
    kls = [[token["kl"] for token in data["tokens"]] for data in (whole, pieces)]
    for whole_kl, pieces_kl in zip(*kls, strict=True):
        assert abs(whole_kl - pieces_kl) <= kl_rounding(whole_kl, coded=True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"answer": "x"}, "give either messages or a prompt"),
        ({**TALK, "prompt": "x", "answer": "x"}, "give either messages or a prompt"),
        ({"prompt": "x", "answer": ""}, "answer: String should have at least 1"),
        ({"prompt": "x" * 200, "answer": "x"}, "tokens leave no room for an answer"),
        ({"messages": [], "answer": "x"}, "messages: List should have at least 1"),
        ({"prompt": "\ud800", "answer": "x"}, ""),
        ({"prompt": "x", "answer": "\ud800"}, ""),
    ],
)
def test_invalid_comparisons_are_refused(server, body, message):
    reply = server.request(f"{API}/divergence", body)
    assert reply.status == 400
    assert message in reply.error["message"]


def test_too_many_waiting_requests_are_refused(server):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("salient.explorer.background.BackgroundWorker.most", 0)
        reply = server.request(GROUP)
    assert reply.status == 429
    assert "The explorer has too much to compute" in reply.error["message"]
