"""Quantized sources: dequantized while they are streamed, and said wherever figures are."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.runs import run
from helpers.toy_models import rewrite_json, toy_folder, toy_text
from salient.core.errors import ModelError
from salient.core.evidence import read_evidence
from salient.formats.checkpoint import open_checkpoint


@pytest.fixture
def sources(tmp_path):
    """A toy's linears of the blocks in FP8 with a scale per row, and their values in float32."""
    eight, plain = toy_folder(tmp_path / "eight"), toy_folder(tmp_path / "plain")
    stored, values = {}, {}
    for name, tensor in load_file(eight / "model.safetensors").items():
        stored[name] = values[name] = tensor
        if name.endswith("_proj.weight"):
            scale = (tensor.float().abs().amax(1, keepdim=True) / 448).bfloat16()
            stored[name] = (tensor.float() / scale.float()).to(torch.float8_e4m3fn)
            stored[f"{name}_scale"] = scale
            values[name] = stored[name].float() * scale.float()
    save_file(stored, eight / "model.safetensors")
    save_file(values, plain / "model.safetensors")
    weights = {"num_bits": 8, "type": "float", "strategy": "channel"}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    settings = {"quant_method": "compressed-tensors", "format": "float-quantized"}
    rewrite_json(eight / "config.json", quantization_config=settings | {"config_groups": groups})
    return eight, plain


def test_an_fp8_source_gives_the_codes_of_its_values(sources, tmp_path):
    text = toy_text(tmp_path)
    eight, plain = sources
    with pytest.raises(ModelError, match="--dequantize-source takes this one's dequantized"):
        run(eight, tmp_path / "a/out", text)
    run(eight, tmp_path / "a/out", text, dequantize_source=True)
    run(plain, tmp_path / "b/out", text)
    ours, expected = (open_checkpoint(tmp_path / x / "out") for x in "ab")
    assert set(ours.files) == set(expected.files)
    for name in expected.files:
        assert torch.equal(ours.tensor(name), expected.tensor(name)), name
    evidence = read_evidence(tmp_path / "a/out")
    assert evidence
    assert evidence.dequantized_source == "compressed-tensors values"
    card = (tmp_path / "a/out/README.md").read_text("utf-8")
    assert "compressed-tensors values weights dequantized, with their error" in card
    assert "--dequantize-source" in card
    config = json.loads((tmp_path / "a/out/config.json").read_text("utf-8"))
    assert config["quantization_config"]["quant_method"] == "awq"
