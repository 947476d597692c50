"""The map of a 16-bit model shows its blocks as a run will treat them."""

import json

import pytest

from helpers.families import FAMILIES
from helpers.runs import run
from helpers.toy_models import save, tiny_model
from salient import api
from salient.models.proof import TOLERANCE


def mapped(kind, folder):
    family = FAMILIES[kind]
    model = tiny_model(kind, vision=family.vision, **family.changes)
    return api.inspect(save(model, folder)).report


def test_blocks_of_one_shape_are_shown_once_with_their_groups(tmp_path):
    report = mapped("llama", tmp_path)
    (kind,) = report.data["kinds_of_blocks"]
    assert kind["blocks"] == ["model.layers.0", "model.layers.1"]
    groups = [(g["absorber"], tuple(g["readers"]), g["proven"]) for g in kind["groups"]]
    assert groups == [
        ("input_layernorm", tuple(f"self_attn.{x}_proj" for x in "qkv"), True),
        ("self_attn.v_proj", ("self_attn.o_proj",), True),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), True),
        ("mlp.up_proj", ("mlp.down_proj",), True),
    ]
    assert all(0 <= g["proof_error"] < TOLERANCE for g in kind["groups"])
    table = next(t for t in report.tables if t.title == "model.layers.0 and 1 like it")
    assert [row[-1] for row in table.rows] == ["scaled"] * 4
    assert "Unquantized outside the blocks: embedding, norms, head." in report.lines


def test_experts_are_shown_together_and_routers_at_sixteen_bits(tmp_path):
    report = mapped("deepseek_v3", tmp_path)
    dense, sparse = report.data["kinds_of_blocks"]
    assert (dense["blocks"], sparse["blocks"]) == (["model.layers.0"], ["model.layers.1"])
    entry, down = (
        next(g for g in sparse["groups"] if reader in g["readers"])
        for reader in ("mlp.gate", "mlp.experts.*.down_proj")
    )
    shared = {f"mlp.{x}_proj" for x in ("shared_experts.gate", "shared_experts.up")}
    experts = {f"mlp.experts.*.{x}_proj" for x in ("gate", "up")}
    assert set(entry["readers"]) == {"mlp.gate", *shared, *experts}
    assert (down["absorber"], down["count"]) == ("mlp.experts.*.up_proj", 8)
    assert sparse["at_16_bits"] == {"mlp.gate": "a router"}
    assert "Unquantized: 1 x model.layers.*.mlp.gate (a router)." in report.lines


def test_a_refusal_names_who_stood_in_the_way(tmp_path):
    """MiniMax adds the norm's output to the block's."""
    report = mapped("minimax", tmp_path)
    groups = [g for kind in report.data["kinds_of_blocks"] for g in kind["groups"]]
    refused = next(g for g in groups if "self_attn.qkv_proj" in g["readers"])
    assert not refused["proven"]
    message = "folding a scale into 'input_layernorm' changes the block's output by "
    assert refused["refusal"].startswith(message)
    blame = "it is also read by 'the block itself' (mul), which takes no scale"
    assert refused["refusal"].endswith(blame)


def test_towers_stay_at_sixteen_bits(tmp_path):
    report = mapped("llava", tmp_path)
    outside = report.data["outside_blocks_at_16_bits"]
    assert "lm_head" in outside
    assert sum("vision_tower" in name for name in outside) == 18
    assert any("model.vision_tower" in line for line in report.lines)
    assert [k["blocks"][0] for k in report.data["kinds_of_blocks"]] == [
        "model.language_model.layers.0"
    ]


@pytest.mark.parametrize("kind", ["llama", "qwen2_moe", "jamba"])
def test_a_run_scales_what_the_map_shows(kind, text, tmp_path):
    report = mapped(kind, tmp_path / "model")
    built = run(tmp_path / "model", tmp_path / "out", text)
    shown = {
        (b, tuple(g["readers"])): (g["absorber"] if g["proven"] else None, g["count"])
        for kind in report.data["kinds_of_blocks"]
        for g in kind["groups"]
        for b in kind["blocks"]
    }
    for block in built.data["blocks"]:
        for group in block["groups"]:
            key = block["block"], tuple(group["readers"])
            assert shown[key] == (group["absorber"], group["count"])
    left = {
        f"{b}.{name}": why
        for kind in report.data["kinds_of_blocks"]
        for b in kind["blocks"]
        for name, why in kind["at_16_bits"].items()
    }
    assert left == built.data["left_at_16_bits"]


def test_the_map_is_one_json_document(tmp_path):
    report = mapped("mixtral", tmp_path)
    assert json.loads(report.to_json())["kinds_of_blocks"][0]["groups"][0]["count"] == 1


def test_tensors_that_belong_to_no_part_are_reported(tmp_path):
    from safetensors.torch import load_file, save_file

    save(tiny_model(), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    extra = tensors["model.norm.weight"].clone()
    save_file(
        tensors | {"model.layers.0.rotary_emb.inv_freq": extra}, path, metadata={"format": "pt"}
    )
    report = api.inspect(tmp_path).report
    assert report.data["left_out"] == ["model.layers.0.rotary_emb.inv_freq"]
    assert any(
        "no place for them: 1 tensors (model.layers.0.rotary_emb.inv_freq)" in line
        for line in report.lines
    )
