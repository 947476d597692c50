"""Whole runs on tiny models: what is written is what was judged."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.families import FAMILIES, SAMPLED
from helpers.runs import logits, run
from helpers.tolerance import SUBNORMAL, assert_within, unit_roundoff, worst
from helpers.toy_models import byte_tokenizer, save, tiny_model
from salient import api
from salient.awq.block import absorb
from salient.awq.partial_shards import PartialCheckpoint
from salient.awq.results import OutputTarget, effective_state
from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.formats.checkpoint import open_checkpoint
from salient.models.proof import ScaleGroup


def tokens_of(text: Path) -> torch.Tensor:
    """Two samples from the end of the calibration text, which the run does not reach."""
    return torch.tensor(byte_tokenizer()(text.read_text()[-256:]).input_ids[-256:]).reshape(2, -1)


IDS = torch.randint(3, 250, (2, 32), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("format", ["awq", "compressed-tensors"])
@pytest.mark.parametrize("scheme", ["w4-g32", "w4-g32-sym"])
def test_a_written_checkpoint_is_read_back_as_it_was_judged(format, scheme, toy, text, tmp_path):
    report = run(toy, tmp_path / "out", text, format=format, scheme=scheme)
    awq = report.data["heldout"]["awq"]
    assert 0 < awq["kl"] < 0.2
    actual = api.evaluate(
        str(tmp_path / "out"), reference=str(toy), text=[str(text)], samples=2, sequence_length=64
    )
    measured = actual.report.data["likelihood"]["texts"][str(text)]
    assert measured["tokens"] == 128
    assert 0 < measured["kl"] < 0.2


def test_both_formats_hold_the_same_weights(toy, text, tmp_path):
    for format in ("awq", "compressed-tensors"):
        run(toy, tmp_path / format, text, format=format)
    assert torch.equal(logits(tmp_path / "awq", IDS), logits(tmp_path / "compressed-tensors", IDS))


DENSE = (
    "llama qwen2 qwen3 gemma2 phi3 opt gpt_neox cohere olmo2 falcon glm4 bloom".split()  # noqa: SIM905
)


@pytest.mark.parametrize("kind", DENSE)
def test_a_familys_checkpoint_is_nearer_to_the_model_than_plain_rounding(kind, text, tmp_path):
    """A scale that were folded in but not taken out anywhere would cost far more than rounding."""
    model = tiny_model(kind, **FAMILIES[kind].changes)
    folder = save(model, tmp_path / "model", torch.float32)
    report = run(folder, tmp_path / "out", text)
    ids = tokens_of(text)
    with torch.no_grad():
        reference = model(ids, use_cache=False).logits
        for name in open_checkpoint(folder).files:
            module, _, kind_ = name.rpartition(".")
            if kind_ == "weight" and open_checkpoint(tmp_path / "out").is_quantized(module):
                weight = model.get_parameter(name)
                weight.copy_(quantize(weight, Scheme(32), name=name).dequantize())
        plain = float((model(ids, use_cache=False).logits - reference).norm())
    assert float((logits(tmp_path / "out", ids) - reference).norm()) < plain
    assert report.data["heldout"]["awq"]["kl"] < report.data["heldout"]["plain"]["kl"]


PACKED = ["llama", "gemma2", "phi3", "gpt2", "qwen3_moe", "llama4_text", "gpt_oss", "qwen3_vl"]


@pytest.mark.usefixtures("short_search")
@pytest.mark.parametrize(
    ("kind", "format"),
    [*((kind, "awq") for kind in SAMPLED), *((kind, "compressed-tensors") for kind in PACKED)],
)
def test_the_exported_logits_equal_those_of_the_weights_in_memory(
    kind, format, text, tmp_path, monkeypatch
):
    """What the search settled on, put into the model in memory, is what comes back from disk."""
    family = FAMILIES[kind]
    model = tiny_model(kind, vision=family.vision, **family.changes)
    folder = save(model, tmp_path / "model")
    resident = {}
    write_block = PartialCheckpoint.write_block

    def retain(self, path, index, result):
        block = self.skeleton.blocks[index]
        resident.update({f"{block}.{n}": t for n, t in effective_state(result).items()})
        write_block(self, path, index, result)

    monkeypatch.setattr(PartialCheckpoint, "write_block", retain)
    run(folder, tmp_path / "out", text, format=format, samples=3)
    memory, _ = api.load(str(folder))
    for name, value in resident.items():
        memory.get_parameter(name).data.copy_(value)
    with torch.no_grad():
        expected = memory(input_ids=IDS, use_cache=False).logits
    assert len(resident) >= 4
    assert torch.equal(logits(tmp_path / "out", IDS), expected)


def test_skipped_linears_stay_in_16_bit_and_are_reported(toy, text, tmp_path):
    report = run(toy, tmp_path / "out", text, skip=["mlp.down_proj", "*.0.self_attn.q_proj"])
    checkpoint = open_checkpoint(tmp_path / "out")
    assert "model.layers.1.mlp.down_proj.weight" in checkpoint.files
    assert "model.layers.0.self_attn.q_proj.weight" in checkpoint.files
    assert checkpoint.is_quantized("model.layers.1.self_attn.q_proj")
    left = report.data["left_at_16_bits"]
    assert left["model.layers.0.mlp.down_proj"] == "--skip mlp.down_proj"
    assert logits(tmp_path / "out", IDS).isfinite().all()


def test_embeddings_head_and_norms_are_never_quantized(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    checkpoint = open_checkpoint(tmp_path / "out")
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"):
        assert checkpoint.tensor(name).dtype == torch.float16


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_source_dtype_and_sharding_is_read(dtype, text, tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    folder = save(model, tmp_path / "model", getattr(torch, dtype), max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    run(folder, tmp_path / "out", text)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert tensors["model.norm.weight"].dtype == getattr(torch, dtype)
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == dtype


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_folded_norm_loses_nothing_to_its_sixteen_bits(offset, dtype):
    """Norm times scale is the norm that was, though the folded norm has sixteen bits only."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(512, generator=generator).to(dtype)
    weight[:3] = torch.tensor([0.0, -offset, 65504 if dtype == torch.float16 else 1e30])
    wanted = torch.rand(512, generator=generator) * 4 + 0.2
    group = ScaleGroup((("reader",),), "norm", torch.arange(512), offset)
    scale, parts = absorb(
        weight, None, group, wanted, OutputTarget(Scheme(128), dtype, frozenset())
    )
    actual = (parts["weight"].float() + offset) * scale
    old = weight.float() + offset
    assert_within(actual, old, worst(2) * old.abs())
    assert parts["weight"].dtype == dtype
    stored = parts["weight"].float()
    new = stored + offset
    # the rounding of what is stored, relative to the norm that it makes
    moved = unit_roundoff(dtype) * stored.abs() + worst(4) * (new.abs() + offset)
    if dtype == torch.float16:
        moved += SUBNORMAL
    usual = moved < 0.1 * new.abs()
    usual[:3] = False
    assert usual.sum() > 450
    bound = 1.2 * scale * moved / new.abs()
    assert_within(scale[usual], wanted[usual], bound[usual])
