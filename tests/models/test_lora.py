"""A LoRA adapter merged while reading is the one that peft merges, and wrong adapters are named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from helpers.tolerance import assert_within, likely
from helpers.toy_models import rewrite_json, save, toy_folder
from salient import api
from salient.core.errors import CheckpointError, MissingExtra, ModelError
from salient.core.metrics import compare_logits
from salient.formats.checkpoint import open_checkpoint
from salient.models.lora import open_adapter
from salient.models.source_model import source_model

peft = pytest.importorskip("peft")
# what peft warns of while it makes an adapter; nothing of it may come from Salient's own reading
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]

TARGETS = ["q_proj", "down_proj"]
KINDS = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "patterns of rank and alpha": {
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 32},
    },
    "dora": {"use_dora": True},
    "one layer": {"layers_to_transform": [1]},
    "by a pattern": {"target_modules": r".*\.1\.mlp\.(up|down)_proj"},
    "embeddings": {"target_modules": ["embed_tokens", "up_proj"]},
    "a head of its own": {"modules_to_save": ["lm_head"]},
}


WIDEST = 96  # inputs of a linear: what a magnitude of DoRA sums


def adapted_files(model: Path, adapter: Path):
    return source_model(open_checkpoint(model), adapter).skeleton.files


def small(text: Path) -> dict:
    return {"scheme": "w4-g32", "calibration": str(text), "samples": 6, "sequence_length": 64}


def reference(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def trained(model: Path, folder: Path, **changes):
    """An adapter of `model` written to `folder`, every tensor random; returns the merged model."""
    settings = {"r": 4, "lora_alpha": 16, "target_modules": TARGETS, **changes}
    torch.manual_seed(0)
    adapted = peft.get_peft_model(reference(model), peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
            elif parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload()


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_that_are_read_are_those_that_peft_merges(kind, toy, tmp_path):
    merged = trained(toy, tmp_path, **KINDS[kind])
    source, files = open_checkpoint(toy), adapted_files(toy, tmp_path)
    assert files.names().keys() == set(source.parameter_names())
    changed = set()
    for name, expected in merged.state_dict().items():
        actual = files.read(name)
        assert_within(actual, expected, likely(WIDEST) * expected.abs().max())
        if not torch.equal(actual.float(), source.tensor(name).float()):
            changed.add(name)
    assert changed == files.changed
    assert changed


def test_an_adapter_in_sixteen_bits_is_merged_in_float32(toy, tmp_path):
    trained(toy, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    save_file({n: t.bfloat16() for n, t in load_file(weights).items()}, weights)
    merged = peft.PeftModel.from_pretrained(reference(toy), tmp_path).merge_and_unload()
    name = "model.layers.0.mlp.down_proj.weight"
    actual = adapted_files(toy, tmp_path).read(name)
    assert actual.dtype == torch.float32
    expected = merged.get_parameter(name)
    assert_within(actual, expected, likely(WIDEST) * expected.abs().max())


def test_quantizing_with_an_adapter_gives_the_merged_models_checkpoint(toy, text, tmp_path):
    merged = trained(toy, tmp_path / "adapter", use_rslora=True)
    out = tmp_path / "out"
    result = api.quantize(str(toy), str(out), adapter=str(tmp_path / "adapter"), **small(text))
    ids = torch.randint(3, 250, (2, 32), generator=torch.Generator().manual_seed(3))
    models = (merged, api.load(str(out))[0], reference(toy))
    with torch.no_grad():
        logits = [model(ids, use_cache=False).logits.flatten(0, 1) for model in models]
    near, far = (compare_logits(logits[0], other, ids.flatten()).kl for other in logits[1:])
    assert near < 0.1
    assert far > 3 * near  # the model without its adapter is another one
    assert result.evidence.run.adapter == open_adapter(tmp_path / "adapter").digest
    save(merged, tmp_path / "merged", torch.float32)
    api.quantize(str(tmp_path / "merged"), str(tmp_path / "same"), **small(text), dtype="float16")
    ours, theirs = (load_file(tmp_path / n / "model.safetensors") for n in ("out", "same"))
    codes = [name for name in ours if name.endswith("qweight")]
    assert sum(torch.equal(ours[name], theirs[name]) for name in codes) > 0.8 * len(codes)


def test_a_run_with_another_adapter_is_another_run(toy, text, tmp_path):
    out = str(tmp_path / "out")
    for alpha in (16, 17):
        trained(toy, tmp_path / str(alpha), lora_alpha=alpha)
    api.quantize(str(toy), out, adapter=str(tmp_path / "16"), **small(text))
    with pytest.raises(
        CheckpointError,
        match=r"another run's: another source: adapter/adapter_config\.json differs",
    ):
        api.quantize(str(toy), out, adapter=str(tmp_path / "17"), **small(text))


def drop_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def drop_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def drop_half(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(weights).items() if "lora_B" not in n}, weights)


def cut_short(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def garble_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def widen(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    tensors = {n: torch.cat([t, t], 1) if "lora_A" in n else t for n, t in tensors.items()}
    save_file(tensors, weights)


def train_no_known_layer(folder: Path) -> None:
    rewrite_json(folder / "adapter_config.json", target_modules=["no_such_proj"])


DAMAGES = {
    "no weights": (drop_weights, r"is no LoRA adapter: it needs adapter_config\.json and"),
    "no config": (drop_config, r"is no LoRA adapter: it needs adapter_config\.json and"),
    "config garbled": (garble_config, r"adapter_config\.json is not readable JSON"),
    "weights cut short": (cut_short, r"truncated or damaged: fetch it again"),
    "half of the tensors": (drop_half, r"does not fit 'model\.layers\.\d\..*lora_B"),
    "of a wider model": (
        widen,
        r"does not fit the model .*: for 'model\.layers\.0\..*' it has \[64, 192\], but the "
        r"model needs \[64, 96\]\. Give the model that it was trained on \(adapter_config\.json",
    ),
    "config of another": (train_no_known_layer, r"does not fit 'model\.layers\.\d\."),
    "another method": (
        lambda f: rewrite_json(f / "adapter_config.json", peft_type="IA3"),
        r"is an adapter of type IA3\. Salient merges LoRA adapters; merge this one with peft first",
    ),
    "an unknown method": (
        lambda f: rewrite_json(f / "adapter_config.json", peft_type="NO_SUCH"),
        r"is an adapter of type NO_SUCH\. Salient merges LoRA adapters",
    ),
    "biases trained": (
        lambda f: rewrite_json(f / "adapter_config.json", bias="lora_only"),
        r"trained biases \(bias='lora_only'\)\. Salient does not merge that: merge it with peft",
    ),
    "biases of its own": (
        lambda f: rewrite_json(f / "adapter_config.json", lora_bias=True),
        r"trained biases \(lora_bias=True\)\. Salient does not merge that",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_adapter_that_cannot_be_merged_says_why_and_what_to_do(damage, toy, text, tmp_path):
    trained(toy, tmp_path / "adapter")
    harm, message = DAMAGES[damage]
    harm(tmp_path / "adapter")
    adapter, out = str(tmp_path / "adapter"), str(tmp_path / "out")
    with pytest.raises(ModelError, match=message):
        api.quantize(str(toy), out, adapter=adapter, **small(text))
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_a_deeper_model_names_what_is_missing(toy, tmp_path):
    deeper = toy_folder(tmp_path / "deeper", num_hidden_layers=4)
    trained(deeper, tmp_path / "adapter")
    message = (
        r"changes 'model\.layers\.2\..*weight', for which the LlamaForCausalLM in .*model has no "
        r"place\. adapter_config\.json names '.*deeper' as its base model: give that as MODEL"
    )
    with pytest.raises(ModelError, match=message):
        adapted_files(toy, tmp_path / "adapter")


def test_an_adapter_of_a_shallower_model_names_what_it_lacks(toy, tmp_path):
    trained(toy, tmp_path / "adapter")
    deeper = toy_folder(tmp_path / "deeper", num_hidden_layers=4)
    message = r"has no tensors for 'model\.layers\.2\.self_attn\.q_proj', which its adapter_config"
    with pytest.raises(ModelError, match=message):
        adapted_files(deeper, tmp_path / "adapter")


def test_without_peft_the_extra_is_named(toy, tmp_path, monkeypatch):
    trained(toy, tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"needs the extra 'lora': pip install 'salient-awq"):
        open_adapter(tmp_path)
