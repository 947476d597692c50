"""Laws of the warnings before quantizing: what serves badly, and nothing else."""

import json
from importlib.resources import files

import pytest

from salient.core.scheme import Scheme
from salient.plan.serving_warnings import serving_warnings


def config(name: str, **changes) -> dict:
    folder = files("salient.shapes") / "configs"
    path = next(p for p in folder.iterdir() if p.name.endswith(f"--{name}.json"))
    return json.loads(path.read_text()) | changes


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen3-8B", "Mixtral-8x7B-v0.1"])
def test_a_checkpoint_that_serves_well_has_no_warning(name):
    assert serving_warnings(config(name), Scheme(128), "awq") == []


def test_groups_that_gpus_cannot_share_are_named_with_the_scheme_that_works():
    # Qwen2-72B: 29568 / 128 = 231 groups, an odd number (vLLM #21695)
    wide = config("Llama-3.1-70B", intermediate_size=29568)
    warnings = " ".join(serving_warnings(wide, Scheme(128), "awq"))
    assert "cannot be cut over 2 GPUs" in warnings
    assert "--scheme w4-g64 would" in warnings
    assert "cannot be cut over 2" not in " ".join(serving_warnings(wide, Scheme(64), "awq"))


def test_a_loss_only_at_many_gpus_is_named_too():
    # Qwen2.5-14B: 13824 inputs / 128 = 108 groups, over 8 GPUs 13.5
    warnings = serving_warnings(config("Qwen2.5-14B"), Scheme(128), "awq")
    assert len(warnings) == 1
    assert "cannot be cut over 8 GPUs" in warnings[0]
    assert "sizes that work: 1, 2, 4" in warnings[0]


def test_an_incomplete_config_is_no_error():
    assert serving_warnings({"model_type": "unknown"}, Scheme(128), "awq") == []


@pytest.mark.parametrize("method", ["awq", "compressed-tensors"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_scheme_and_format_that_is_written_serves_well(method, symmetric):
    for group in (32, 64, 128):
        warnings = serving_warnings(config("Llama-3.1-8B"), Scheme(group, symmetric), method)
        assert warnings == []
