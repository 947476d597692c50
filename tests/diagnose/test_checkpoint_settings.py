"""Where the settings stand: missing, beside config.json, twice, and how a proposal mends them."""

import json

import pytest

from helpers.faults import alarms, config, copied, first, words, write_config
from helpers.rtn_checkpoints import rounded_toy
from helpers.toy_models import save, tiny_model
from salient.core.errors import ModelError
from salient.core.model_files import read_json
from salient.diagnose.checkpoint.check import read_checkpoint


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A tiny Llama of two blocks in AutoAWQ's layout, groups of 32; do not change it."""
    return rounded_toy(tmp_path_factory.mktemp("awq"))


@pytest.fixture
def toy(good, tmp_path):
    return copied(good, tmp_path / "toy")


def test_settings_only_beside_config_json_are_an_error(toy):
    found = read_json(toy / "config.json")
    del found["quantization_config"]
    write_config(toy, found)
    old = {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}
    (toy / "quant_config.json").write_text(json.dumps(old))
    told = first(toy)
    assert told.id == "config-beside"
    assert "quant_config.json" in words(told)
    assert "--quantization awq" in words(told)


def test_compression_config_is_read_by_vllm_alone(toy):
    found = read_json(toy / "config.json")
    found["compression_config"] = found.pop("quantization_config")
    write_config(toy, found)
    told = first(toy)
    assert told.id == "config-beside"
    assert "vLLM does." in told.why
    assert "--quantization" not in words(told)


def test_two_settings_that_contradict_each_other_are_told(toy):
    old = {"zero_point": True, "q_group_size": 128, "w_bit": 4}
    (toy / "quantize_config.json").write_text(json.dumps(old))
    told = first(toy)
    assert told.id == "config-contradicts"
    assert "group_size 128" in words(told)
    assert "group_size 32" in words(told)


def test_proposed_settings_mend_a_config_without_any(toy):
    config(quantization_config=None)(toy)
    line = next(step for step in first(toy).do if step.startswith("+"))
    write_config(toy, read_json(toy / "config.json") | json.loads("{" + line.lstrip("+ ") + "}"))
    assert alarms(read_checkpoint(toy)) == []


def test_awq_settings_over_16_bit_weights_are_an_error(tmp_path):
    folder = save(tiny_model(), tmp_path / "model")
    write_config(folder, read_json(folder / "config.json") | {"quantization_config": SETTINGS})
    assert first(folder).id == "codes-absent"


SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}


def test_nothing_can_be_said_without_a_config(toy):
    (toy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_checkpoint(toy)
