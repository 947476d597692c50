"""Wrong arguments and damaged models: said before any work, and nothing left behind."""

import re

import pytest
import torch
from safetensors.torch import load_file

from helpers.runs import run
from helpers.toy_models import rewrite_json, save, tiny_model, toy_folder
from salient import api
from salient.core.errors import (
    CalibrationError,
    CheckpointError,
    ModelError,
    RequestError,
    ResourceError,
    ShapeError,
)


def test_auto_takes_the_largest_group_size_that_fits_and_says_why(toy, text, tmp_path):
    report = run(toy, tmp_path / "out", text, scheme="auto", dry_run=True)
    assert report.data["scheme"] == "w4-g32"
    assert "64 does not divide the 96 inputs of 'model.layers.0.mlp.down_proj'" in str(report.lines)


def test_a_dry_run_writes_nothing_and_estimates(toy, text, tmp_path):
    report = run(toy, tmp_path / "out", text, dry_run=True)
    assert report.data["peak_memory_bytes"] == sum(report.data["memory_bytes"].values()) > 0
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_an_error_before_the_start(toy, text, tmp_path, monkeypatch):
    monkeypatch.setattr("salient.awq.memory_estimate.available_memory", lambda: 10 * 2**20)
    with pytest.raises(
        ResourceError, match=r"needs about .* GiB of main memory, .* Lower --samples"
    ):
        run(toy, tmp_path / "out", text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"scheme": "w4-g128"},
            ShapeError,
            r"64 input features, not a multiple .* 128 \(and 13 others\)\. Use group size 32\.$",
        ),
        ({"scheme": "w3-g128"}, ShapeError, r"Unknown scheme 'w3-g128'.*w4-g128"),
        ({"format": "gguf"}, CheckpointError, r"Unknown format 'gguf'.*awq, compressed-tensors"),
        ({"dtype": "float8"}, ShapeError, r"Unknown dtype 'float8'.*bfloat16, float16"),
        ({"device": "cuda:99"}, RequestError, r"Device 'cuda:99' cannot be used.*--device auto"),
        ({"skip": ["nothing"]}, ShapeError, r"--skip 'nothing' names no linear.*model.layers.0"),
        ({"skip": ["*"]}, ShapeError, r"nothing is left to quantize"),
        (
            {"samples": 5000},
            CalibrationError,
            r"has \d+ tokens, but 5000 samples .* Use --samples",
        ),
        ({"sequence_length": 1024}, CalibrationError, r"longer than the model's 512 positions"),
        (
            {"sequence_length": 8},
            CalibrationError,
            r"--samples 6 of --sequence-length 8: use at least 1 of 64 tokens",
        ),
        ({"calibration": "no/such/file.txt"}, CalibrationError, r"No text file .*'builtin'"),
    ],
)
def test_invalid_arguments_name_valid_ones(changes, error, message, toy, text, tmp_path):
    with pytest.raises(error, match=message):
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
        r"'model.layers.1.mlp.up_proj.weight' has 1 NaN or infinite values of 6144",
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


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGES)
def test_a_damaged_model_is_named_and_nothing_is_left_under_the_final_name(
    damage, error, message, text, tmp_path
):
    folder = toy_folder(tmp_path / "model")
    damage(folder)
    with pytest.raises(error, match=message):
        run(folder, tmp_path / "out", text)
    assert not (tmp_path / "out").exists()


def test_a_quantized_model_is_not_quantized_again(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    with pytest.raises(ModelError, match=r"is already quantized .*Give the 16-bit model"):
        run(tmp_path / "out", tmp_path / "again", text)


def test_evaluate_refuses_another_model_and_a_quantized_reference(toy, text, tmp_path):
    run(toy, tmp_path / "out", text)
    other = toy_folder(tmp_path / "other", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match="are not the same model"):
        api.evaluate(str(tmp_path / "out"), reference=str(other), text=[str(text)])
    with pytest.raises(CheckpointError, match="is quantized itself"):
        api.evaluate(str(toy), reference=str(tmp_path / "out"), text=[str(text)])


@pytest.mark.parametrize("size", [1e25, 3e38])
def test_activations_that_overflow_are_named(size, text, tmp_path):
    model = tiny_model()
    model.model.layers[1].post_attention_layernorm.weight.data.fill_(size)
    folder = save(model, tmp_path / "model", torch.bfloat16)
    message = r"The input of 'model\.layers\.1\.mlp\.\w+' overflows or is NaN .*check that"
    with pytest.raises(ModelError, match=message):
        run(folder, tmp_path / "out", text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scheme", ["w4-g32", "auto", "w4-g128"])
@pytest.mark.parametrize("format", ["awq", "compressed-tensors"])
def test_the_advised_skips_make_a_run_possible_for_all_layers_at_once(
    scheme, format, text, tmp_path
):
    sizes = {"intermediate_size": 172, "num_hidden_layers": 6}
    if scheme == "w4-g128":
        sizes["hidden_size"] = 128
    folder = toy_folder(tmp_path / "model", **sizes)
    options = {"scheme": scheme, "format": format, "dry_run": True}
    with pytest.raises(ShapeError, match=r"'model\.layers\.0\.") as raised:
        run(folder, tmp_path / "out", text, **options)
    patterns = re.findall(r"--skip '(.*?)'", str(raised.value))
    assert len(patterns) == (
        1 if format == "compressed-tensors" and scheme != "w4-g128" else 3
    ) or (scheme == "w4-g128")
    report = run(folder, tmp_path / "out", text, skip=patterns, **options)
    assert report.data["linears"] >= 6 * 3
    with pytest.raises(ShapeError):
        run(folder, tmp_path / "out", text, skip=patterns[1:], **options)


def test_a_block_that_raises_is_named_with_its_model(toy, text, tmp_path, monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaMLP

    for error in (RuntimeError("shapes do not\nmatch"), AssertionError(), RecursionError("deep")):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(LlamaMLP, "forward", fail)
        for verb in (
            lambda: run(toy, tmp_path / "out", text),
            lambda: run(toy, tmp_path / "out", text, dry_run=True),
            lambda: api.inspect(toy),
        ):
            message = (
                r"'model\.layers\.0' of LlamaForCausalLM cannot be run on text \((\w+).*config"
            )
            with pytest.raises(ModelError, match=message) as raised:
                verb()
            assert type(error).__name__ in str(raised.value)
            assert "\n" not in str(raised.value)
    monkeypatch.setattr(LlamaMLP, "forward", lambda *_: torch.empty(10**15))
    with pytest.raises(
        ResourceError, match=r"LlamaForCausalLM cannot be run.*memory does not suff"
    ):
        api.inspect(toy)
    assert list(tmp_path.iterdir()) == []
