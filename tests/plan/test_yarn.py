"""Laws of contexts beyond the native length: scaled where the maker tried it, else refused."""

import json
import shlex
from dataclasses import replace

import pytest

from helpers.shapes import released
from salient import api
from salient.core.errors import RequestError
from salient.plan.yarn import override_keys, yarn_override
from salient.shapes.from_config import read_shape
from salient.shapes.rope import RopeShape


def overrides(line: str) -> dict:
    argv = shlex.split(line)
    return json.loads(argv[argv.index("--hf-overrides") + 1])


def test_the_override_is_that_of_vllms_documentation():
    plan = api.plan("Qwen/Qwen3-8B", gpu="H200", context_length=131072).report.data
    line = plan["devices"][0]["commands"][-1]
    assert overrides(line)["rope_parameters"] == {
        "rope_theta": 1000000,
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32768,
    }
    assert "--max-model-len 131072" in line


def test_the_native_length_needs_no_scaling():
    for length in (8192, 32768, 40960):
        plan = api.plan("Qwen/Qwen3-8B", gpu="H200", context_length=length).report.data
        assert "--hf-overrides" not in plan["devices"][0]["commands"][-1]


def test_the_factor_is_no_larger_than_the_context_needs_and_keeps_other_parameters():
    nested = RopeShape("default", {"mrope_section": [11, 11, 10], "rope_theta": 1e7}, "text_config")
    shape = replace(released("Qwen3-8B"), model_type="qwen3_5", context=262144, rope=nested)
    rope = yarn_override(shape, 2 * 262144)
    assert rope.factor == 2
    assert rope.context >= 2 * 262144
    keys = override_keys(rope)
    assert keys["text_config"]["rope_parameters"]["mrope_section"] == [11, 11, 10]
    assert set(override_keys(rope, parameters=False)["text_config"]) == {"rope_scaling"}


@pytest.mark.parametrize(
    ("model", "context", "match"),
    [
        ("Qwen/Qwen3-8B", 131073, "131072 with YaRN by its model card. Give at most 131072"),
        ("meta-llama/Llama-3.1-8B", 131073, "no settings of YaRN for more. Give at most 131072"),
        ("google/gemma-3-27b-it", 200000, "no settings of YaRN"),
    ],
)
def test_more_than_the_maker_tried_is_refused_with_what_fits(model, context, match):
    with pytest.raises(RequestError, match=match):
        api.plan(model, gpu="H200", context_length=context)


def test_a_config_with_yarn_has_the_scaled_length():
    config = {
        "model_type": "qwen2", "hidden_size": 256, "intermediate_size": 512, "vocab_size": 1000,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
    }  # fmt: skip
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert read_shape(config).context == 32768
    assert read_shape(config | {"rope_scaling": yarn}).context == 131072
