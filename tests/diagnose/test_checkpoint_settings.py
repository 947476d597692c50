"""Where the settings stand: missing, beside config.json, twice, and how a proposal mends them."""

import json

import pytest

from helpers.faults import alarms, config, copied, first, text_of, write_config
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


def test_settings_only_next_to_config_json_are_an_error(toy):
    model_config = read_json(toy / "config.json")
    del model_config["quantization_config"]
    write_config(toy, model_config)
    old = {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}
    (toy / "quant_config.json").write_text(json.dumps(old))
    finding = first(toy)
    assert finding.id == "config-beside"
    assert "quant_config.json" in text_of(finding)
    assert "--quantization awq" in text_of(finding)


def test_compression_config_is_read_by_vllm_only(toy):
    model_config = read_json(toy / "config.json")
    model_config["compression_config"] = model_config.pop("quantization_config")
    write_config(toy, model_config)
    finding = first(toy)
    assert finding.id == "config-beside"
    assert "vLLM does." in finding.why
    assert "--quantization" not in text_of(finding)


def test_settings_that_contradict_each_other_are_a_finding(toy):
    old = {"zero_point": True, "q_group_size": 128, "w_bit": 4}
    (toy / "quantize_config.json").write_text(json.dumps(old))
    finding = first(toy)
    assert finding.id == "config-contradicts"
    assert "group_size 128" in text_of(finding)
    assert "group_size 32" in text_of(finding)


def test_proposed_settings_fix_a_config_without_any(toy):
    config(quantization_config=None)(toy)
    line = next(step for step in first(toy).do if step.startswith("+"))
    write_config(toy, read_json(toy / "config.json") | json.loads("{" + line.lstrip("+ ") + "}"))
    assert alarms(read_checkpoint(toy)) == []


def test_awq_settings_over_unquantized_weights_are_an_error(tmp_path):
    folder = save(tiny_model(), tmp_path / "model")
    write_config(folder, read_json(folder / "config.json") | {"quantization_config": SETTINGS})
    assert first(folder).id == "codes-absent"


SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}


def test_a_folder_without_a_config_is_refused(toy):
    (toy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_checkpoint(toy)
