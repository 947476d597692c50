"""What a checkpoint is written in: small float32 tensors, 16-bit types, and tied heads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.families import FAMILIES
from helpers.runs import run
from helpers.toy_models import rewrite_json, save, tiny_model, toy_text
from salient.core.errors import ModelError
from salient.core.evidence import read_evidence

IDS = torch.randint(3, 320, (2, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    return toy_text(tmp_path_factory.mktemp("text"))


def change_tensors(folder: Path, change) -> None:
    """Apply `change` to the dictionary of tensors of a model in one file."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def written(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_router_corrections_in_float32_stay_exact(text, tmp_path):
    kind = "deepseek_v3"
    folder = save(tiny_model(kind, **FAMILIES[kind].changes), tmp_path / "m", torch.bfloat16)
    close = torch.tensor([34.458, 34.400, 34.595, 34.612] * 2)
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    change_tensors(folder, lambda tensors: tensors.update({name: close}))
    run(folder, tmp_path / "out", text, dtype="bfloat16")
    assert torch.equal(written(tmp_path / "out")[name], close)
    evidence = read_evidence(tmp_path / "out")
    assert evidence is not None
    assert evidence.float32 == (name,)


def test_a_norm_in_float32_stays_in_float32_and_folds_exactly(text, tmp_path):
    folder = save(tiny_model(), tmp_path / "m", torch.bfloat16)
    name = "model.layers.0.input_layernorm.weight"
    change_tensors(folder, lambda tensors: tensors.update({name: tensors[name].float()}))
    run(folder, tmp_path / "out", text)
    tensors = written(tmp_path / "out")
    assert tensors[name].dtype == torch.float32
    assert tensors["model.layers.1.input_layernorm.weight"].dtype == torch.bfloat16


def test_decays_of_a_float32_source_stay_in_float32(text, tmp_path):
    kind = "mamba2"
    folder = save(tiny_model(kind, **FAMILIES[kind].changes), tmp_path / "m", torch.float32)
    run(folder, tmp_path / "out", text)
    wide = {
        n.rpartition(".")[2]
        for n, t in written(tmp_path / "out").items()
        if t.dtype == torch.float32
    }
    assert wide == {"A_log", "dt_bias"}


@pytest.mark.parametrize(
    ("stored", "named", "expected"),
    [
        ("float32", "float32", "bfloat16"),
        ("float32", None, "bfloat16"),
        ("bfloat16", None, "bfloat16"),
        ("float16", None, "float16"),
        ("bfloat16", "float16", "float16"),
    ],
)
def test_auto_is_the_configs_type_else_the_tensors(stored, named, expected, text, tmp_path):
    folder = save(tiny_model(), tmp_path / "m", getattr(torch, stored))
    config = json.loads((folder / "config.json").read_text())
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config | ({"dtype": named} if named else {})))
    report = run(folder, tmp_path / "out", text)
    assert report.data["run"]["dtype"] == expected
    assert any(f"Written in {expected}" in line for line in report.lines)


def test_activations_beyond_float16_are_refused_by_block(text, tmp_path):
    folder = save(tiny_model(), tmp_path / "m", torch.bfloat16)
    name = "model.layers.1.mlp.down_proj.weight"
    change_tensors(folder, lambda tensors: tensors[name].mul_(1e6))
    with pytest.raises(
        ModelError, match=r"activations of 'model.layers.1' reach .* --dtype bfloat16"
    ):
        run(folder, tmp_path / "out", text, dtype="float16")
    report = run(folder, tmp_path / "other", text, dtype="bfloat16")
    assert report.data["blocks"][1]["largest_activation"] > 65504


def tied(folder: Path) -> Path:
    return save(tiny_model(tie_word_embeddings=True), folder, torch.bfloat16)


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def test_an_equal_copy_of_a_tied_head_is_written_once(text, tmp_path):
    folder = tied(tmp_path / "m")
    change_tensors(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    run(folder, tmp_path / "out", text)
    assert HEAD not in written(tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is True


def test_a_stored_head_that_differs_unties_and_is_judged(text, tmp_path):
    folder = tied(tmp_path / "m")
    other = tiny_model(seed=5).lm_head.weight.detach().bfloat16()
    change_tensors(folder, lambda tensors: tensors.update({HEAD: other}))
    report = run(folder, tmp_path / "out", text)
    assert torch.equal(written(tmp_path / "out")[HEAD], other)
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    # the same model with the truth in its config gives the same figures
    rewrite_json(folder / "config.json", tie_word_embeddings=False)
    honest = run(folder, tmp_path / "honest", text)
    assert report.data["heldout"] == honest.data["heldout"]
    assert report.data["untied"] == [HEAD]


def test_a_tied_model_stored_as_its_head_is_written_as_its_embedding(text, tmp_path):
    folder = tied(tmp_path / "m")
    plain = run(folder, tmp_path / "plain", text)
    change_tensors(folder, lambda tensors: tensors.update({HEAD: tensors.pop(EMBEDDING)}))
    report = run(folder, tmp_path / "out", text)
    assert report.data["heldout"] == plain.data["heldout"]
    assert written(tmp_path / "out").keys() == written(tmp_path / "plain").keys()
