"""16-bit folders: config.json against the shapes in the headers, and matrices that are missing."""

import pytest
import torch

from helpers.families import FAMILIES
from helpers.faults import alarms, config, copied, edit, first, text_of
from helpers.toy_models import save, tiny_model, toy_folder
from salient.diagnose.checkpoint.check import read_checkpoint

DOWN = "model.layers.1.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A tiny Llama in 16 bits; do not change it."""
    return toy_folder(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture
def toy(good, tmp_path):
    return copied(good, tmp_path / "toy")


@pytest.mark.parametrize("kind", ["gpt2", "qwen3_moe", "gpt_oss", "qwen3_next", "jamba", "gemma3"])
def test_sizes_of_every_kind_of_family_raise_no_alarm(kind, tmp_path):
    family = FAMILIES[kind]
    folder = save(tiny_model(kind, vision=family.vision, **family.changes), tmp_path / kind)
    assert alarms(read_checkpoint(folder)) == []


@pytest.mark.parametrize(
    ("change", "id", "text"),
    [
        (config(hidden_size=128), "config-sizes", "64 x 64; config.json gives"),
        (config(intermediate_size=97), "config-sizes", f"{DOWN} outputs x inputs are 64 x 96"),
        (config(intermediate_size=97), "config-sizes", '+  "intermediate_size": 96'),
        (config(num_attention_heads=8), "config-sizes", "q_proj.weight"),
        (config(num_key_value_heads=4), "config-sizes", "k_proj.weight"),
        (config(head_dim=32), "config-sizes", "o_proj.weight"),
        (config(num_hidden_layers=3), "config-layers", "model.layers.2 no tensors"),
        (config(num_hidden_layers=1), "config-layers", "model.layers.1 not counted"),
        (config(vocab_size=400), "config-vocabulary", "320 rows; config.json's vocab_size is 400"),
        (config(num_attention_heads=0), "config-impossible", "num_attention_heads"),
        (config(hidden_size="wide"), "config-impossible", "hidden_size"),
    ],
)
def test_a_config_that_does_not_fit_the_tensors_is_an_error(change, id, text, toy):
    change(toy)
    findings = {finding.id: finding for finding in read_checkpoint(toy).findings}
    assert findings[id].level == "error", findings
    assert text in text_of(findings[id])


def test_a_tensor_of_another_shape_is_an_error(toy):
    edit(toy, lambda tensors: tensors.update({DOWN: torch.zeros(64, 97, dtype=torch.float16)}))
    assert f"{DOWN} outputs x inputs are 64 x 97" in text_of(first(toy))
    edit(toy, lambda tensors: tensors.update({EMBEDDING: torch.zeros(9, 64, dtype=torch.float16)}))
    assert "config-vocabulary" in alarms(read_checkpoint(toy))


def test_a_missing_matrix_is_an_error_as_siblings_have_it(toy):
    edit(toy, lambda tensors: tensors.pop(DOWN))
    finding = first(toy)
    assert finding.id == "linear-missing"
    assert "model.layers.1.mlp.down_proj missing; model.layers.0.mlp has it" in text_of(finding)
    assert "random numbers" in finding.why
