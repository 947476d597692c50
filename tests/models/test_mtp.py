"""Layers that predict further tokens: every form is recognized, kept in 16 bits and declared."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.families import FAMILIES
from helpers.runs import run
from helpers.toy_models import rewrite_json, save, tiny_model, toy_text
from salient.core.errors import ModelError
from salient.models.mtp import mtp_modules, mtp_tensors, promised_layers, without_mtp

HOME, BLOCKS = "model.layers", 2
FORMS = {  # published names -> where engines look for the layer
    "model.layers.2.eh_proj.weight": ("model.layers.2",),
    "model.layers.2.mlp.experts.0.up_proj.weight": ("model.layers.2",),
    "model.layers.2.embed_tokens.weight": ("model.layers.2",),
    "mtp.layers.0.self_attn.q_proj.weight": ("model.layers.2", "mtp"),
    "mtp.fc.weight": ("model.layers.2", "mtp"),
    "model.mtp.fc.weight": ("model.layers.2", "model.mtp"),
    "model.mtp_layers.1.mlp.up_proj.weight": ("model.layers.3", "model.mtp_layers"),
    "model.mtp_block.0.mlp.up_proj.weight": ("model.layers.2", "model.mtp_block"),
    "model.mtp_linear_proj.0.weight": ("model.layers.2", "model.mtp_linear_proj"),
    "model.nextn.eh_proj.weight": ("model.layers.2", "model.nextn"),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return toy_text(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("name", FORMS)
def test_each_published_form_is_recognized_and_declared(name):
    assert mtp_tensors([name], HOME, BLOCKS, promised=1) == (name,)
    assert mtp_modules([name], HOME, BLOCKS) == FORMS[name]


def test_a_block_beyond_the_last_is_no_draft_layer_unless_counted_or_marked():
    plain, marked = "model.layers.2.mlp.up_proj.weight", "model.layers.2.hnorm.weight"
    assert mtp_tensors([plain], HOME, BLOCKS, promised=0) == ()
    assert mtp_tensors([plain, marked], HOME, BLOCKS, promised=0) == (plain, marked)
    assert mtp_tensors(["model.layers.1.mlp.up_proj.weight"], HOME, BLOCKS, promised=1) == ()


@pytest.mark.parametrize(
    "config",
    [
        {"num_nextn_predict_layers": 2},
        {"text_config": {"mtp_num_hidden_layers": 2}},
        {"mtp_config": {"num_nextn_predict_layers": 2}},
        {"use_mtp": True, "num_mtp_modules": 2},
    ],
)
def test_counts_are_read_and_cleared_wherever_they_stand(config):
    assert promised_layers(config) == 2
    assert promised_layers(without_mtp(config)) == 0


def with_mtp(kind: str, folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A tiny model with one further layer, in its published layout."""
    save(tiny_model(kind, **FAMILIES[kind].changes), folder, torch.bfloat16)
    tensors = load_file(folder / "model.safetensors")
    last = {n: t for n, t in tensors.items() if n.startswith("model.layers.1.")}
    extra = {n.replace("layers.1.", "layers.2."): t.flip(0).clone() for n, t in last.items()}
    prefix = "model.layers.2."
    extra |= {
        f"{prefix}eh_proj.weight": torch.ones(64, 128, dtype=torch.bfloat16),
        f"{prefix}enorm.weight": torch.ones(64, dtype=torch.bfloat16),
        f"{prefix}hnorm.weight": torch.ones(64, dtype=torch.bfloat16),
        f"{prefix}shared_head.norm.weight": torch.ones(64, dtype=torch.bfloat16),
        f"{prefix}shared_head.head.weight": tensors["lm_head.weight"].clone(),
        f"{prefix}embed_tokens.weight": tensors["model.embed_tokens.weight"].clone(),
    }
    correction = f"{prefix}mlp.gate.e_score_correction_bias"
    extra[correction] = extra[correction].float() + 34.4001
    save_file(tensors | extra, folder / "model.safetensors", metadata={"format": "pt"})
    rewrite_json(folder / "config.json", num_nextn_predict_layers=1)
    return folder, extra


@pytest.mark.parametrize("format", ["awq", "compressed-tensors"])
@pytest.mark.parametrize("kind", ["deepseek_v3", "glm4_moe"])
def test_draft_layers_stay_exact_under_their_names_and_are_declared(kind, format, text, tmp_path):
    folder, extra = with_mtp(kind, tmp_path / "model")
    report = run(folder, tmp_path / "out", text, format=format)
    written = load_file(tmp_path / "out/model.safetensors")
    for name, tensor in extra.items():
        assert written[name].dtype == tensor.dtype, name
        assert torch.equal(written[name], tensor), name
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["num_nextn_predict_layers"] == 1
    settings = config["quantization_config"]
    declared = settings.get("modules_to_not_convert") or settings["ignore"]
    entry = r"re:(.*\.)?model\.layers\.2\..*" if format != "awq" else "model.layers.2"
    assert entry in declared
    assert report.data["mtp"] == ["model.layers.2"]
    assert any("MTP" in line and "stay in 16 bits" in line for line in report.lines)


def test_draft_layers_are_dropped_on_request_with_the_config_changed(text, tmp_path):
    folder, extra = with_mtp("glm4_moe", tmp_path / "model")
    report = run(folder, tmp_path / "out", text, drop=["mtp"])
    assert not extra.keys() & load_file(tmp_path / "out/model.safetensors").keys()
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["num_nextn_predict_layers"] == 0
    assert report.lines[0].startswith(f"Dropped by --drop 'mtp': {len(extra)} tensors")


def test_a_count_without_tensors_is_cleared_and_reported(text, tmp_path):
    folder = save(tiny_model(), tmp_path / "model", torch.bfloat16)
    rewrite_json(folder / "config.json", num_nextn_predict_layers=1)
    report = run(folder, tmp_path / "out", text)
    assert json.loads((tmp_path / "out/config.json").read_text())["num_nextn_predict_layers"] == 0
    assert any("has no tensor: its config.json counts 0" in line for line in report.lines)


def test_blocks_beyond_the_config_are_refused_as_a_loss(text, tmp_path):
    folder = save(tiny_model(), tmp_path / "model", torch.bfloat16)
    rewrite_json(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(ModelError, match="no place for"):
        run(folder, tmp_path / "out", text)
