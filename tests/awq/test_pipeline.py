"""Whole runs on tiny models: what is written is what was judged, and nothing is lost."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from salient import api
from salient.awq.block import absorbed, effective_state
from salient.awq.pieces import Pieces
from salient.core.errors import (
    CalibrationError,
    CheckpointError,
    ModelError,
    ResourceError,
    ResumeMismatch,
    ShapeError,
)
from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.formats.checkpoint import open_checkpoint
from salient.models.groups import ScaleGroup
from toy import byte_tokenizer, rewrite_json, save, tiny_model, toy_folder, toy_text

SMALL = {"scheme": "w4-g32", "samples": 6, "sequence_length": 64}


def run(model: Path, out: Path, text: Path, **changes):
    return api.quantize(str(model), str(out), **{**SMALL, "calibration": str(text), **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model, _ = api.load(str(folder))
    with torch.no_grad():
        return model(ids, use_cache=False).logits


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
    found = api.evaluate(
        str(tmp_path / "out"), reference=str(toy), text=[str(text)], windows=2, window_length=64
    )
    measured = found.data["texts"][str(text)]
    assert measured["tokens"] == 128
    assert 0 < measured["kl"] < 0.2


def test_both_formats_hold_the_same_weights(toy, text, tmp_path):
    for format in ("awq", "compressed-tensors"):
        run(toy, tmp_path / format, text, format=format)
    torch.testing.assert_close(
        logits(tmp_path / "awq", IDS), logits(tmp_path / "compressed-tensors", IDS), rtol=0, atol=0
    )


FAMILIES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8},
    "phi3": {},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "gpt_neox": {},
    "cohere": {},
    "olmo2": {},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "head_dim": None},
    "glm4": {},
    "bloom": {"n_head": 4},
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_familys_checkpoint_is_nearer_to_the_model_than_plain_rounding(kind, text, tmp_path):
    """A scale that were folded in but not taken out anywhere would cost far more than rounding."""
    model = tiny_model(kind, **FAMILIES[kind])
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


@pytest.mark.parametrize("format", ["awq", "compressed-tensors"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "phi3", "opt", "gpt_neox"])
def test_the_exported_logits_equal_those_of_the_weights_held_in_memory(
    kind, format, text, tmp_path, monkeypatch
):
    """What the search settled on, put into the model in memory, is what comes back from disk."""
    folder = save(tiny_model(kind, **FAMILIES[kind]), tmp_path / "model")
    held = {}
    write_block = Pieces.write_block

    def keep(self, index, result):
        block = self.skeleton.blocks[index]
        held.update({f"{block}.{n}": t for n, t in effective_state(result).items()})
        write_block(self, index, result)

    monkeypatch.setattr(Pieces, "write_block", keep)
    run(folder, tmp_path / "out", text, format=format)
    memory, _ = api.load(str(folder))
    for name, value in held.items():
        memory.get_parameter(name).data.copy_(value)
    with torch.no_grad():
        expected = memory(IDS, use_cache=False).logits
    assert len(held) > 8
    assert torch.equal(logits(tmp_path / "out", IDS), expected)


def test_a_second_run_writes_the_same_bytes(toy, text, tmp_path):
    for name in ("one", "two"):
        run(toy, tmp_path / name / "out", text)
    assert contents(tmp_path / "one/out") == contents(tmp_path / "two/out")


def test_a_run_killed_at_any_moment_goes_on_and_ends_byte_equal(tmp_path, text):
    model = toy_folder(tmp_path / "model", num_hidden_layers=6)
    run(model, tmp_path / "whole/out", text)
    target = tmp_path / "killed/out"
    command = [sys.executable, "-m", "salient", "quantize", str(model), "-o", str(target)]
    command += ["--scheme", "w4-g32", "--samples", "6", "--sequence-length", "64"]
    command += ["--calibration", str(text), "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    delays = random.Random(0)
    partial = target.with_name("out.partial")
    for _ in range(5):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while not (partial / "journal.jsonl").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delays.random() * 0.25)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert contents(target) == contents(tmp_path / "whole/out")
    assert not partial.exists()


@pytest.mark.parametrize(
    ("changes", "field", "before", "now"),
    [
        ({"samples": 5}, "samples", "6", "5"),
        ({"scheme": "w4-g32-sym"}, "scheme", "'w4-g32'", "'w4-g32-sym'"),
        ({"skip": ["down_proj"]}, "skip", "[]", "['down_proj']"),
        ({"format": "compressed-tensors"}, "format", "'awq'", "'compressed-tensors'"),
        ({"sequence_length": 80}, "sequence_length", "64", "80"),
        ({"dtype": "bfloat16"}, "dtype", "'float16'", "'bfloat16'"),
    ],
)
def test_an_unfinished_run_refuses_other_arguments_by_name(
    changes, field, before, now, toy, text, tmp_path
):
    interrupted(toy, tmp_path / "out", text)
    words = f"has {field} = {before}, this one has {now}. Give the same arguments to go on, --fresh"
    with pytest.raises(ResumeMismatch, match=re.escape(words)):
        run(toy, tmp_path / "out", text, **changes)
    run(toy, tmp_path / "out", text, **changes, fresh=True)
    assert (tmp_path / "out" / "salient.json").exists()


def test_an_unfinished_run_refuses_a_changed_text(toy, tmp_path):
    text = toy_text(tmp_path)
    interrupted(toy, tmp_path / "out", text)
    text.write_text("another beginning " + text.read_text())
    with pytest.raises(ResumeMismatch, match=r"has calibration = '[0-9a-f]{64}', this one has '"):
        run(toy, tmp_path / "out", text)


class Stop(Exception):
    pass


def interrupted(model, out, text, **changes):
    def stop(done, total, doing, note):
        if done == 1:
            raise Stop

    with pytest.raises(Stop):
        run(model, out, text, progress=stop, **changes)
    assert not out.exists()


def test_a_changed_model_is_refused_on_resume(tmp_path, text):
    model = toy_folder(tmp_path / "model")
    interrupted(model, tmp_path / "out", text)
    save(tiny_model(seed=7), model)
    with pytest.raises(ResumeMismatch, match="has model = "):
        run(model, tmp_path / "out", text)


def test_a_finished_run_given_again_reports_without_working(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    before = contents(tmp_path / "out")
    assert run(toy, tmp_path / "out", text).data["resumed"]
    assert contents(tmp_path / "out") == before


def test_a_folder_that_is_not_this_runs_is_never_replaced(toy, text, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep me")
    for fresh in (False, True):
        with pytest.raises(
            CheckpointError, match="was not written by salient, so it is not replaced"
        ):
            run(toy, out, text, fresh=fresh)
    assert (out / "mine.txt").read_text() == "keep me"


def test_a_finished_checkpoint_of_another_run_is_replaced_only_when_asked(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    with pytest.raises(CheckpointError, match="scheme = 'w4-g32' there, 'w4-g32-sym' here"):
        run(toy, tmp_path / "out", text, scheme="w4-g32-sym")
    run(toy, tmp_path / "out", text, scheme="w4-g32-sym", fresh=True)


def test_skipped_linears_stay_at_sixteen_bits_and_are_said(toy, text, tmp_path):
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
    group = ScaleGroup(("reader",), "norm", torch.arange(512), offset)
    scale, parts = absorbed(weight, None, group, wanted, dtype)
    found = (parts["weight"].float() + offset) * scale
    torch.testing.assert_close(found, weight.float() + offset, rtol=3e-7, atol=0)
    assert parts["weight"].dtype == dtype
    bits = torch.finfo(dtype).eps
    usual = weight.float().abs() > 0.01
    usual[:3] = False
    torch.testing.assert_close(scale[usual], wanted[usual], rtol=200 * bits, atol=0)


def test_auto_takes_the_largest_group_size_that_fits_and_says_why(toy, text, tmp_path):
    report = run(toy, tmp_path / "out", text, scheme="auto", dry_run=True)
    assert report.data["scheme"] == "w4-g32"
    assert "64 does not divide the 96 inputs of 'model.layers.0.mlp.down_proj'" in str(report.lines)


def test_a_dry_run_writes_nothing_and_estimates(toy, text, tmp_path):
    report = run(toy, tmp_path / "out", text, dry_run=True)
    assert report.data["peak_memory_bytes"] == sum(report.data["memory_bytes"].values()) > 0
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_said_before_starting(toy, text, tmp_path, monkeypatch):
    monkeypatch.setattr("salient.awq.memory.available_memory", lambda: 10 * 2**20)
    with pytest.raises(
        ResourceError, match=r"needs about .* GiB of main memory, .* Lower --samples"
    ):
        run(toy, tmp_path / "out", text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"scheme": "w4-g128"},
            ShapeError,
            r"has 64 input features, not a multiple .* 128.*64 or 32",
        ),
        ({"scheme": "w3-g128"}, ShapeError, r"Unknown scheme 'w3-g128'.*w4-g128"),
        ({"format": "gguf"}, CheckpointError, r"Unknown format 'gguf'.*awq, compressed-tensors"),
        ({"dtype": "float8"}, ShapeError, r"Unknown dtype 'float8'.*float16, bfloat16"),
        ({"device": "cuda:99"}, ModelError, r"Device 'cuda:99' cannot be used.*--device auto"),
        ({"skip": ["nothing"]}, ShapeError, r"--skip 'nothing' names no linear.*model.layers.0"),
        ({"skip": ["*"]}, ShapeError, r"nothing is left to quantize"),
        (
            {"samples": 5000},
            CalibrationError,
            r"holds \d+ tokens, but 5000 samples .* Ask for --samples",
        ),
        ({"sequence_length": 1024}, CalibrationError, r"longer than the model's 512 positions"),
        ({"sequence_length": 8}, CalibrationError, r"give at least 1 sample of 64 tokens"),
        ({"calibration": "no/such/file.txt"}, CalibrationError, r"No text file .*'builtin'"),
    ],
)
def test_wrong_arguments_say_what_fits(changes, error, words, toy, text, tmp_path):
    with pytest.raises(error, match=words):
        run(toy, tmp_path / "out", text, **changes)
    assert list(tmp_path.iterdir()) == []


def damage_nan(folder):
    from safetensors.torch import save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def damage_truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def damage_config(folder):
    rewrite_json(folder / "config.json", intermediate_size=128)


def damage_model_type(folder):
    rewrite_json(folder / "config.json", model_type="no_such_model")


def damage_vocabulary(folder):
    from safetensors.torch import save_file

    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:64].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    rewrite_json(folder / "config.json", vocab_size=64)


DAMAGES = [
    (
        damage_nan,
        ModelError,
        r"'model.layers.1.mlp.up_proj.weight' holds 1 of 6144 values that are NaN",
    ),
    (
        damage_truncated,
        ModelError,
        r"model.safetensors in .* cannot be read .*truncated or damaged",
    ),
    (damage_config, ModelError, r"is \[96, 64\] on disk, but config.json makes it \[128, 64\]"),
    (damage_model_type, ModelError, r"does not describe a causal language model"),
    (
        damage_vocabulary,
        CalibrationError,
        r"token ids up to \d+, but the model's vocabulary has 64",
    ),
    (lambda f: (f / "config.json").unlink(), ModelError, r"has no config.json"),
    (lambda f: (f / "config.json").write_text("{"), ModelError, r"is not readable JSON"),
    (lambda f: (f / "tokenizer.json").unlink(), ModelError, r"no tokenizer that can be read"),
]


@pytest.mark.parametrize(("damage", "error", "words"), DAMAGES)
def test_a_damaged_model_is_named_and_nothing_is_left_under_the_final_name(
    damage, error, words, text, tmp_path
):
    folder = toy_folder(tmp_path / "model")
    damage(folder)
    with pytest.raises(error, match=words):
        run(folder, tmp_path / "out", text)
    assert not (tmp_path / "out").exists()


def test_a_quantized_model_is_not_quantized_again(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    with pytest.raises(ModelError, match=r"is already quantized .*Give the 16-bit model"):
        run(tmp_path / "out", tmp_path / "again", text)


def test_evaluate_refuses_another_model_and_a_quantized_reference(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    other = toy_folder(tmp_path / "other", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match="they are not the same model"):
        api.evaluate(str(tmp_path / "out"), reference=str(other), text=[str(text)])
    with pytest.raises(CheckpointError, match="is quantized itself"):
        api.evaluate(str(toy), reference=str(tmp_path / "out"), text=[str(text)])
