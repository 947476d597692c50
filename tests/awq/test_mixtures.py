"""Whole runs on models with experts: what is written, left, borrowed and resumed."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.families import FAMILIES
from helpers.runs import contents, run
from helpers.tolerance import SUBNORMAL, assert_within, unit_roundoff, worst
from helpers.toy_models import save, tiny_model
from salient.awq import block_statistics
from salient.core.errors import ModelError, ShapeError
from salient.core.progress import Progress
from salient.formats.checkpoint import open_checkpoint

IDS = torch.randint(3, 250, (2, 32), generator=torch.Generator().manual_seed(3))


def model_folder(kind: str, folder: Path, **options) -> Path:
    return save(tiny_model(kind, **FAMILIES[kind].changes), folder, **options)


NAMES = {
    "qwen3_moe": ("model.layers.0.mlp.experts.", {"gate_proj", "up_proj", "down_proj"}),
    "mixtral": ("model.layers.0.block_sparse_moe.experts.", {"w1", "w2", "w3"}),
    "llama4_text": ("model.layers.1.feed_forward.experts.", {"gate_proj", "up_proj", "down_proj"}),
    "gpt_oss": ("model.layers.0.mlp.experts.", {"gate_proj", "up_proj", "down_proj"}),
    "granitemoe": (
        "model.layers.0.block_sparse_moe.experts.",
        {"gate_proj", "up_proj", "down_proj"},
    ),
    "nemotron_h": ("backbone.layers.2.mixer.experts.", {"up_proj", "down_proj"}),
}


@pytest.mark.parametrize("kind", NAMES)
def test_every_expert_is_written_as_two_dimensional_tensors_of_its_own(kind, text, tmp_path):
    run(model_folder(kind, tmp_path / "model"), tmp_path / "out", text)
    tensors = load_file(tmp_path / "out/model.safetensors")
    home, kinds = NAMES[kind]
    own = {n.removeprefix(home): t for n, t in tensors.items() if n.startswith(home)}
    expected = {
        f"{expert}.{kind}.{leaf}"
        for expert in range(8)
        for kind in kinds
        for leaf in ("qweight", "qzeros", "scales")
    }
    if kind == "gpt_oss":
        expected |= {f"{e}.{k}.bias" for e in range(8) for k in kinds}
    assert set(own) == expected
    assert all(t.ndim == 2 for n, t in own.items() if not n.endswith("bias"))
    assert not any(t.ndim == 3 for n, t in tensors.items() if "conv" not in n)


@pytest.mark.parametrize("kind", ["qwen3_moe", "llama4_text", "gpt_oss", "granitemoe"])
def test_experts_left_at_sixteen_bits_are_stored_as_the_source_stored_them(kind, text, tmp_path):
    """They took the scale of the norm that they share: the logits stay near the model's."""
    folder = model_folder(kind, tmp_path / "model")
    report = run(folder, tmp_path / "out", text, skip=["*.experts.*"])
    source, built = (load_file(d / "model.safetensors") for d in (folder, tmp_path / "out"))
    experts = [name for name in source if "experts" in name or "_linear" in name]
    assert all(built[name].shape == source[name].shape for name in experts)
    group = next(g for g in report.data["blocks"][-1]["groups"] if "v_proj" in str(g["absorber"]))
    assert group["kept"]
    heldout = report.data["heldout"]
    assert heldout["awq"]["kl"] < heldout["plain"]["kl"]


def test_leaving_some_experts_of_a_block_is_refused(text, tmp_path):
    folder = model_folder("mixtral", tmp_path / "model")
    message = (
        r"store the experts of a block as one stack: leave all .* with --skip '\*\.experts\.\*'"
    )
    with pytest.raises(ShapeError, match=message):
        run(folder, tmp_path / "out", text, skip=["*.experts.3.*"])


def test_a_width_that_fits_no_group_says_how_to_leave_all_experts(text, tmp_path):
    changes = FAMILIES["qwen3_moe"].changes | {"moe_intermediate_size": 40}
    folder = save(tiny_model("qwen3_moe", **changes), tmp_path / "model")
    with pytest.raises(ShapeError, match=r"40 input features.* with --skip '\*\.experts\.\*'"):
        run(folder, tmp_path / "out", text)


def test_routers_stay_at_sixteen_bits_and_are_named_in_the_config(text, tmp_path):
    folder = model_folder("qwen2_moe", tmp_path / "model")
    report = run(folder, tmp_path / "out", text)
    checkpoint = open_checkpoint(tmp_path / "out")
    gates = [f"model.layers.{i}.mlp.{g}" for i in (0, 1) for g in ("gate", "shared_expert_gate")]
    assert sorted(checkpoint.config["quantization_config"]["modules_to_not_convert"]) == gates
    assert all(checkpoint.tensor(f"{name}.weight").dtype == torch.float16 for name in gates)
    assert set(report.data["left_at_16_bits"]) == set(gates)
    assert any("mlp.gate (a router)" in line for line in report.lines)


def test_the_router_takes_the_scale_of_the_norm_it_reads(text, tmp_path):
    folder = model_folder("qwen3_moe", tmp_path / "model")
    run(folder, tmp_path / "out", text)
    source, built = (load_file(d / "model.safetensors") for d in (folder, tmp_path / "out"))
    norm, gate = "model.layers.0.post_attention_layernorm.weight", "model.layers.0.mlp.gate.weight"
    scale = source[norm].float() / built[norm].float()
    assert float((scale - 1).abs().max()) > 0.05
    expected = source[gate] * scale
    rounding = (unit_roundoff(torch.float16) + worst(3)) * expected.abs()
    assert_within(built[gate], expected, rounding + SUBNORMAL)


def test_experts_that_saw_few_tokens_are_named_in_report_and_evidence(text, tmp_path):
    report = run(model_folder("qwen3_moe", tmp_path / "model"), tmp_path / "out", text)
    borrowed = report.data["blocks"][0]["borrowed_statistics"]
    assert borrowed
    name, recorded = next(iter(borrowed.items()))
    assert name.startswith("mlp.experts.")
    assert recorded < block_statistics.FEWEST_TOKENS
    line = next(x for x in report.lines if "too few tokens reached" in x and "layers.0 " in x)
    assert f"{name} ({recorded})" in line


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_experts_gathered_in_portions_end_as_those_gathered_at_once(
    effort, text, tmp_path, monkeypatch
):
    folder = model_folder("mixtral", tmp_path / "model")
    run(folder, tmp_path / "once", text, effort=effort)
    monkeypatch.setattr(block_statistics, "GRAM_BYTES", 200_000)
    run(folder, tmp_path / "often", text, effort=effort)
    once, often = (contents(tmp_path / name) for name in ("once", "often"))
    assert once["model.safetensors"] == often["model.safetensors"]


@pytest.mark.parametrize("kind", ["qwen2_moe", "jamba", "llama4_text"])
def test_a_run_that_stops_between_blocks_ends_byte_equal(kind, text, tmp_path):
    folder = model_folder(kind, tmp_path / "model")
    run(folder, tmp_path / "whole/out", text)

    def stop(done: int, total: int, doing: str, note: str) -> None:
        if done == 1 and "search" in doing:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "out", text, progress=Progress(stop))
    report = run(folder, tmp_path / "out", text)
    assert report.data["resumed"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole/out")


def test_experts_in_one_stack_and_one_by_one_are_the_same_model(text, tmp_path):
    """Published Qwen3-MoE files hold experts one by one, others hold Transformers' stacks."""
    model = tiny_model("qwen3_moe", **FAMILIES["qwen3_moe"].changes)
    save(model, tmp_path / "single")
    save(model, tmp_path / "stacked", save_original_format=False)
    stacked = load_file(tmp_path / "stacked/model.safetensors")
    assert stacked["model.layers.0.mlp.experts.gate_up_proj"].ndim == 3
    for kind in ("single", "stacked"):
        run(tmp_path / kind, tmp_path / f"{kind}-out", text)
    single, stacked = (
        load_file(tmp_path / f"{k}-out/model.safetensors") for k in ("single", "stacked")
    )
    assert single.keys() == stacked.keys()
    assert all(torch.equal(single[name], stacked[name]) for name in single)


def test_a_lost_expert_is_named(text, tmp_path):
    from safetensors.torch import save_file

    folder = model_folder("mixtral", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    lost = "model.layers.1.block_sparse_moe.experts.5.w3.weight"
    del tensors[lost]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"has no tensor 'model\.layers\.1\.mlp\.experts\.5\.up_proj"
    ):
        run(folder, tmp_path / "out", text)
    shutil.rmtree(folder)
