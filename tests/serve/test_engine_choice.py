"""The choice of the engine, and its messages."""

import socket
from contextlib import nullcontext

import pytest

from helpers.explorer_state import served_model
from helpers.rtn_checkpoints import rounded_toy
from helpers.runs import run
from salient.core.errors import CheckpointError, MissingExtra, RequestError, ResourceError
from salient.serve import embedded, server
from salient.serve.embedded import MAX_SEQUENCES, sequences, started_event
from salient.serve.http_server import is_loopback
from salient.serve.options import ServeOptions
from salient.serve.server import chosen_engine, command_event
from salient.serve.vllm import locate


def chosen(**options) -> str:
    return chosen_engine(ServeOptions("x", **options))


@pytest.mark.parametrize(("there", "wanted"), [(None, "embedded"), (object(), "vllm")])
def test_auto_is_vllm_if_it_is_installed(there, wanted, monkeypatch):
    monkeypatch.setattr(locate, "find_vllm", lambda _: there)
    assert chosen() == wanted


@pytest.mark.parametrize(
    "options", [{"vllm_args": ("--seed", "1")}, {"vllm_python": "/x"}, {"print_command": True}]
)
def test_vllm_options_select_vllm(options):
    assert chosen(**options) == "vllm"
    with pytest.raises(RequestError, match=r"are for vLLM, but the embedded engine was requested"):
        chosen(engine="embedded", **options)
    with pytest.raises(RequestError, match=r"\(--reference needs it\). Leave them out"):
        chosen(reference="model", **options)


def test_a_reference_selects_the_embedded_engine_and_refuses_vllm():
    assert chosen(reference="model") == "embedded"
    with pytest.raises(RequestError, match="explorer, which runs only with the embedded engine"):
        chosen(engine="vllm", reference="model")


def test_an_unknown_engine_is_refused_with_the_valid_ones():
    with pytest.raises(RequestError, match=r"Unknown engine .sglang.\. Use one of auto, embed"):
        chosen(engine="sglang")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "uvicorn" else 1)
    with pytest.raises(
        MissingExtra, match=r"extra 'serve' \(uvicorn cannot be imported\): pip install"
    ):
        server.check_extra()


@pytest.mark.parametrize(
    ("name", "outcome"), [("model.safetensors", CheckpointError), ("tokenizer_config.json", None)]
)
def test_a_checkpoint_with_other_weights_than_it_was_written_with_is_not_served(
    name, outcome, toy, text, tmp_path, monkeypatch, caplog
):
    run(toy, tmp_path / "out", text)
    content = (tmp_path / "out" / name).read_bytes()
    (tmp_path / "out" / name).write_bytes(
        content[:-2] + b" }" if outcome is None else content[:-1] + b"\1"
    )
    monkeypatch.setattr(embedded, "run_app", lambda *_: None)
    options = ServeOptions(tmp_path / "out", concurrency=1, context_length=64)
    message = f"is not as Salient wrote it: {name} has changed"
    refused = pytest.raises(outcome, match=message) if outcome else nullcontext()
    with socket.socket() as listening, refused:
        embedded.serve_embedded(options, listening, None)
    assert outcome or message in caplog.text


# How many sequences


def test_as_many_sequences_run_as_memory_holds(tmp_path, monkeypatch):
    folder = rounded_toy(tmp_path)
    assert sequences([folder], 64, "cpu") == MAX_SEQUENCES
    weights = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    each = 2 * 2 * 2 * 16 * 64 * 2  # keys and values, blocks, heads, numbers, tokens, bytes
    few = (weights + 3.5 * each) / embedded.SHARE
    monkeypatch.setattr(embedded, "free_memory", lambda _: int(few))
    count = sequences([folder], 64, "cpu")
    assert 1 <= count < MAX_SEQUENCES
    assert sequences([folder], 32, "cpu") in (2 * count, 2 * count + 1)


def test_no_room_for_one_sequence_is_refused_with_the_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "free_memory", lambda _: 10_000)
    with pytest.raises(ResourceError, match=r"one sequence of 64 tokens .* --context-length"):
        sequences([rounded_toy(tmp_path)], 64, "cpu")


# Messages


def test_the_command_of_vllm_hides_the_key():
    event = command_event(["vllm", "serve", "a b"], {"VLLM_API_KEY": "secret"})
    (line,), data = event.lines, event.data
    assert line == "VLLM_API_KEY=... vllm serve 'a b'"
    assert "secret" not in str(data)


@pytest.mark.parametrize(
    ("host", "key", "warned"),
    [("127.0.0.1", None, False), ("0.0.0.0", None, True), ("0.0.0.0", "key", False)],
)
def test_a_public_address_without_a_key_gives_a_warning(host, key, warned, tmp_path):
    served = served_model(rounded_toy(tmp_path), "toy")
    event = started_event(ServeOptions("x", host=host, api_key=key), "http://x:1", served)
    assert any("no key is required" in line for line in event.lines) == warned
    assert (event.data["api_key"], event.data["model"]) == (key is not None, "toy")


def test_loopback_is_only_this_machine():
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", socket.gethostname() + ".x")))
