"""Laws of what quantize says beforehand: what will hurt, and nothing where nothing will."""

import json
from importlib.resources import files

import pytest

from salient.core.scheme import Scheme
from salient.plan.serving_warnings import forewarnings


def config(name: str, **changes) -> dict:
    folder = files("salient.shapes") / "configs"
    path = next(p for p in folder.iterdir() if p.name.endswith(f"--{name}.json"))
    return json.loads(path.read_text()) | changes


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen3-8B", "Mixtral-8x7B-v0.1"])
def test_nothing_is_said_where_nothing_will_hurt(name):
    assert forewarnings(config(name), Scheme(128), "awq") == []


def test_groups_that_gpus_cannot_share_are_told_with_the_scheme_that_they_can():
    # Qwen2-72B: 29568 / 128 = 231 groups, an odd number (vLLM #21695)
    wide = config("Llama-3.1-70B", intermediate_size=29568)
    said = " ".join(forewarnings(wide, Scheme(128), "awq"))
    assert "cannot be cut over 2 GPUs" in said
    assert "--scheme w4-g64 would" in said
    assert "cannot be cut over 2" not in " ".join(forewarnings(wide, Scheme(64), "awq"))


def test_a_loss_at_many_gpus_alone_is_told_too():
    # Qwen2.5-14B: 13824 inputs / 128 = 108 groups, over 8 GPUs 13.5
    said = forewarnings(config("Qwen2.5-14B"), Scheme(128), "awq")
    assert len(said) == 1
    assert "cannot be cut over 8 GPUs" in said[0]
    assert "sizes that work: 1, 2, 4" in said[0]


def test_a_config_that_says_too_little_is_no_error():
    assert forewarnings({"model_type": "unheard-of"}, Scheme(128), "awq") == []


@pytest.mark.parametrize("method", ["awq", "compressed-tensors"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_scheme_and_format_that_is_written_is_asked_for(method, symmetric):
    for group in (32, 64, 128):
        said = forewarnings(config("Llama-3.1-8B"), Scheme(group, symmetric), method)
        assert said == []
