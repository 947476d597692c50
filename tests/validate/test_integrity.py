"""Integrity: one damaged tensor is named, and roundings of every kind raise no alarm."""

import shutil

import pytest
import torch

from helpers.faults import copied, edit
from helpers.rtn_checkpoints import rounded, rounded_toy
from helpers.runs import run
from helpers.toy_models import toy_folder
from salient.core.evidence import EVIDENCE_FILE
from salient.core.progress import silent
from salient.validate.attribution.result import AttributionResult, DriftResult, with_damage
from salient.validate.integrity.measure import measure_integrity
from salient.validate.integrity.result import DamagedTensor, IntegrityResult
from salient.validate.model_pair import open_pair

LAYER = "model.layers.2"
ATTENTION, MLP = f"{LAYER}.self_attn", f"{LAYER}.mlp"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Llama of four blocks; do not change it."""
    return toy_folder(tmp_path_factory.mktemp("integrity") / "model", num_hidden_layers=4)


@pytest.fixture(scope="module")
def checkpoints(model, text):
    """The model by plain rounding, and with AWQ's scales folded in; do not change them."""
    plain, scaled = (model.with_name(name) for name in ("plain", "scaled"))
    rounded(model, plain, format="compressed-tensors")
    run(model, scaled, text, samples=4, format="compressed-tensors")
    return {"plain": plain, "scaled": scaled}


def damage(checkpoint, model):
    return measure_integrity(open_pair(str(checkpoint), str(model), "cpu"), silent)


def larger_scales(tensors, module):
    tensors[f"{module}.weight_scale"] *= 1.05


def permuted_scales(tensors, module):
    scale = tensors[f"{module}.weight_scale"]
    order = torch.randperm(scale.numel(), generator=torch.Generator().manual_seed(1))
    tensors[f"{module}.weight_scale"] = scale.flatten()[order].reshape(scale.shape).contiguous()


def no_codes(tensors, module):
    tensors[f"{module}.weight_packed"][3] = 0


def other_linear(tensors, module):
    other = module.replace("layers.2", "layers.1")
    for suffix in ("weight_packed", "weight_scale", "weight_zero_point"):
        tensors[f"{module}.{suffix}"] = tensors[f"{other}.{suffix}"].clone()


@pytest.mark.parametrize("kind", ["plain", "scaled"])
def test_a_good_checkpoint_raises_no_alarm(kind, checkpoints, model):
    result = damage(checkpoints[kind], model)
    assert not result.damaged
    assert not result.unjudged
    assert result.compared == 28


@pytest.mark.parametrize("kind", ["plain", "scaled"])
@pytest.mark.parametrize("fault", [larger_scales, no_codes, other_linear], ids=lambda f: f.__name__)
@pytest.mark.parametrize("module", [f"{ATTENTION}.q_proj", f"{MLP}.down_proj"])
def test_a_damaged_linear_is_named(kind, fault, module, checkpoints, model, tmp_path):
    if fault is larger_scales and module.endswith("down_proj") and kind == "scaled":
        pytest.skip("four pairs of toys do not tell which side of a linear's scale is larger")
    folder = copied(checkpoints[kind], tmp_path / "damaged")
    (folder / EVIDENCE_FILE).unlink(missing_ok=True)
    edit(folder, lambda tensors: fault(tensors, module))
    assert damage(folder, model).names == [module]


@pytest.mark.parametrize("kind", ["plain", "scaled"])
@pytest.mark.parametrize(
    "name", [f"{LAYER}.input_layernorm.weight", "model.norm.weight", "model.embed_tokens.weight"]
)
def test_a_norm_or_embedding_that_is_larger_is_named(kind, name, checkpoints, model, tmp_path):
    folder = copied(checkpoints[kind], tmp_path / "damaged")
    (folder / EVIDENCE_FILE).unlink(missing_ok=True)
    edit(folder, lambda tensors: tensors[name].mul_(1.01))
    assert damage(folder, model).names == [name]


def test_a_digest_names_the_tensor_that_changed(checkpoints, model, tmp_path):
    folder = copied(checkpoints["scaled"], tmp_path / "damaged")
    edit(folder, lambda tensors: tensors[f"{ATTENTION}.q_proj.weight_scale"][0].mul_(1.01))
    result = damage(folder, model)
    assert result.digests == "changed"
    assert result.names == [f"{ATTENTION}.q_proj.weight_scale"]


@pytest.mark.parametrize("family", ["gemma3", "mixtral", "qwen2"])
def test_a_rounded_family_raises_no_alarm(family, tmp_path):
    folder = rounded_toy(tmp_path, family)
    assert not damage(folder, tmp_path / "model").damaged


def test_another_model_is_not_judged(checkpoints, model, tmp_path):
    other = toy_folder(tmp_path / "other", seed=5, num_hidden_layers=4)
    for name in ("config.json",):
        shutil.copy(model / name, other / name)
    result = damage(checkpoints["plain"], other)
    assert not [name for name in result.names if "proj" in name and result.unjudged]


def test_damage_is_a_failed_rule_and_replaces_suggestions():
    damaged = DamagedTensor(f"{ATTENTION}.v_proj", "its weights are 4 steps off")
    result = IntegrityResult("no digests", 28, (damaged,))
    (rule,) = result.failed_rules()
    assert rule.passed is False
    assert rule.title == f"integrity: damaged ({ATTENTION}.v_proj)"
    drift = DriftResult(None, reason="unknown")
    attribution = AttributionResult(1, 1, (), 0.1, 0.0, {}, {}, (), drift)
    (suggestion,) = with_damage(attribution, [damaged.summary]).suggestions
    assert suggestion.what.startswith(f"damaged: {ATTENTION}.v_proj: ")
    assert "16" not in suggestion.what
