"""The explorer over HTTP: its page asks nobody else, wrong questions are 400, nothing leaks."""

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


def test_every_file_that_the_page_names_is_there_and_named_by_it(server):
    named = set(re.findall(r'"/explorer/([\w.]+)"', server.request("/").body.decode()))
    left = list(named)
    while left:
        script = server.request(f"/explorer/{left.pop()}").body.decode()
        found = set(re.findall(r'from "\./([\w.]+)"', script)) - named
        named |= found
        left += found
    there = {entry.name for entry in PAGE.iterdir()} - {"index.html"}
    assert named == there
    assert all(server.request(f"/explorer/{name}").status == 200 for name in there)


@pytest.mark.parametrize("name", [entry.name for entry in PAGE.iterdir()])
def test_no_file_of_the_page_asks_elsewhere_or_writes_markup(name):
    text = (PAGE / name).read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "style="):
        assert word not in text


@pytest.mark.parametrize(
    "path", ["/explorer/nothing.js", "/explorer/..%2Froutes.py", "/explorer/%2Fetc%2Fpasswd"]
)
def test_no_other_file_is_given(server, path):
    assert server.request(path).status == 404


def test_with_a_key_the_page_is_open_and_its_data_are_not(alone):
    for path in ("/", "/explorer/main.js", "/explorer/style.css"):
        assert alone.request(path).status == 200
    for path in ("scene", "progress", "running", "block?block=0", "group?block=0&layer=x"):
        assert alone.request(f"{API}/{path}").status == 401
        assert alone.request(f"{API}/{path}", Authorization="Bearer sesame").status in (200, 400)
    assert alone.request(f"{API}/divergence", {**TALK, "answer": "x"}).status == 401


# Its data


def test_every_panel_answers(server):
    scene = server.request(f"{API}/scene").data
    assert (scene["model"], scene["reference"], scene["chat"]) == ("toy", "full", True)
    block = server.request(f"{API}/block?block=1").data
    layer = block["inputs"][0]["readers"][0]["name"]
    for panel in ("salience", "curve"):
        assert server.request(f"{API}/{panel}?block=1&layer={layer}").data["why"] == ""
    assert server.request(GROUP).data["errors"]["now"]["layer"] > 0
    assert server.request(f"{API}/running").data["total"] > 0


@pytest.mark.parametrize(
    ("path", "words"),
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
def test_wrong_questions_are_refused_in_the_apis_shape(server, path, words):
    reply = server.request(f"{API}/{path}")
    assert reply.status == 400
    assert reply.error["type"] == "invalid_request_error"
    assert words in reply.error["message"]


def test_without_a_source_panels_say_what_is_missing(alone):
    alone.headers["Authorization"] = "Bearer sesame"
    scene = alone.request(f"{API}/scene").data
    assert "`--reference MODEL`" in scene["no_source"]
    found = alone.request(GROUP)
    assert found.status == 200
    assert "`--reference MODEL`" in found.data["why"]
    for path in ("reference/chat", "reference/completions", "divergence"):
        body = {**TALK, "answer": "x", "prompt": "x"} if path != "divergence" else None
        reply = alone.request(f"{API}/{path}", body or {"prompt": "x", "answer": "x"})
        assert reply.status == 400
        assert "No 16-bit reference runs next to this checkpoint" in reply.error["message"]
    del alone.headers["Authorization"]


# The reference


def test_the_reference_streams_beside_the_checkpoint(server):
    asked = {**TALK, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    whole = server.request(f"{API}/reference/chat", asked).data
    assert whole["model"] == "full"
    events = server.request(f"{API}/reference/chat", {**asked, "stream": True}).events
    said = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
    assert said == whole["choices"][0]["message"]["content"]
    plain = {"prompt": "one two", "max_tokens": 4, "temperature": 0}
    assert server.request(f"{API}/reference/completions", plain).data["model"] == "full"


def test_each_token_of_an_answer_tells_how_far_the_two_are_apart(server):
    found = server.request(f"{API}/divergence", {**TALK, "answer": "some words"}).data
    tokens = found["tokens"]
    assert "".join(t["text"] for t in tokens) == "some words"
    assert found["mean_kl"] == pytest.approx(sum(t["kl"] for t in tokens) / len(tokens))
    assert found["mean_kl"] > 0
    for token in tokens:
        assert token["kl"] >= 0
        for side in ("reference", "quantized"):
            p = [each["p"] for each in token[side]]
            assert len(p) == 5
            assert p == sorted(p, reverse=True)
            assert sum(p) <= 1.001
        assert token["same"] == (token["reference"][0]["text"] == token["quantized"][0]["text"])


def test_a_model_beside_itself_does_not_part(home):
    with explorer_app(explorer_state(home / "rounded", home / "rounded")) as running:
        found = running.request(f"{API}/divergence", {"prompt": "one two", "answer": " three"}).data
    assert found["mean_kl"] < kl_rounding(0)
    assert found["agreed"] == 1.0


def test_a_long_answer_is_cut_to_the_context_and_that_is_said(server):
    found = server.request(f"{API}/divergence", {"prompt": "p" * 100, "answer": "a" * 60}).data
    assert len(found["tokens"]) + found["cut"] == 60
    assert found["cut"] > 20


def test_a_long_prompt_goes_in_piece_by_piece_and_gives_the_same(server):
    asked, lengths = {"prompt": "p" * 70, "answer": "aaa"}, []
    whole = server.request(f"{API}/divergence", asked).data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("salient.explorer.divergence.CHUNK", 32)
        logits = Engine.logits
        patch.setattr(
            Engine, "logits", lambda *given: lengths.append(len(given[1])) or logits(*given)
        )
        pieces = server.request(f"{API}/divergence", asked).data
    assert sorted(lengths) == sorted(2 * [32, 64, 72])
    kls = [[token["kl"] for token in found["tokens"]] for found in (whole, pieces)]
    for whole_kl, pieces_kl in zip(*kls, strict=True):
        assert abs(whole_kl - pieces_kl) <= kl_rounding(whole_kl, coded=True)


@pytest.mark.parametrize(
    ("body", "words"),
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
def test_what_cannot_be_compared_is_refused(server, body, words):
    reply = server.request(f"{API}/divergence", body)
    assert reply.status == 400
    assert words in reply.error["message"]


def test_where_too_much_waits_the_explorer_says_try_again(server):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("salient.explorer.background.MAX_WAITING", 0)
        reply = server.request(GROUP)
    assert reply.status == 429
    assert "The explorer has too much to compute" in reply.error["message"]
