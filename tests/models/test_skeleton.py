"""What cannot be streamed, or is stored in a way that is not followed, is refused by name."""

import pytest
import torch

from helpers.families import FAMILIES
from helpers.runs import run
from helpers.tolerance import assert_within, model_rounding
from helpers.toy_models import rewrite_json, save, tiny_model
from salient import api
from salient.core.errors import ModelError
from salient.formats.checkpoint import open_checkpoint
from salient.models.skeleton import Skeleton

IDS = torch.randint(3, 250, (1, 12), generator=torch.Generator().manual_seed(2))


def skeleton_of(folder) -> Skeleton:
    return Skeleton(open_checkpoint(folder), torch.float32, torch.device("cpu"))


def test_blocks_that_hand_on_more_than_hidden_states_are_refused(tmp_path):
    """GLM-5 hands the positions that a block chose on to the next ones."""
    model = tiny_model("glm_moe_dsa", **FAMILIES["deepseek_v3"].changes)
    skeleton = skeleton_of(save(model, tmp_path))
    message = (
        r"'model\.layers\.1' takes more from the block before it than hidden states: GlmMoeDsa"
    )
    with pytest.raises(ModelError, match=message):
        skeleton.calls(IDS)


HYBRID = {
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}


def test_several_hidden_states_a_token_are_refused_by_every_verb_before_the_run(tmp_path, text):
    changes = {
        "num_hidden_layers": 2,
        "hidden_size_per_layer_input": 32,
        "vocab_size_per_layer_input": 320,
        "laurel_rank": 8,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0, 0.0],
        "layer_types": ["sliding_attention", "full_attention"],
    }
    folder = save(tiny_model("gemma3n_text", **changes), tmp_path / "model")
    message = "more than one state a token"
    skip = ["altup.*", "laurel.*"]
    for dry_run in (True, False):
        with pytest.raises(ModelError, match=message):
            run(folder, tmp_path / "out", text, skip=skip, dry_run=dry_run)
    with pytest.raises(ModelError, match=message):
        api.inspect(folder)
    assert not (tmp_path / "out").exists()


def test_parameters_derived_from_others_are_refused_and_the_advice_helps(tmp_path):
    """OLMo hybrid's files hold three convolutions that Transformers joins to one."""
    model = tiny_model("olmo_hybrid", **HYBRID)
    folder = save(model, tmp_path / "published")
    message = r"has no tensor 'model.*'\. Transformers makes .* save_original_format=False"
    skeleton = skeleton_of(folder)
    with pytest.raises(ModelError, match=message):
        skeleton.block(0)
    rewritten = skeleton_of(save(model, tmp_path / "rewritten", save_original_format=False))
    result = rewritten.block(0).state_dict()
    expected = model.model.layers[0].state_dict()
    assert result.keys() == expected.keys()
    assert all(torch.equal(result[name].half(), expected[name].half()) for name in expected)


def test_a_missing_head_that_is_not_tied_is_named(tmp_path):
    folder = save(tiny_model(tie_word_embeddings=True), tmp_path)
    rewrite_json(folder / "config.json", tie_word_embeddings=False)
    skeleton = skeleton_of(folder)
    hidden, _ = skeleton.calls(IDS)
    with pytest.raises(ModelError, match=r"has no tensor 'lm_head\.weight'"):
        skeleton.logits(IDS, hidden)


def test_a_vision_tower_is_never_read(tmp_path):
    family = FAMILIES["llava"]
    model = tiny_model("llava", vision=family.vision, **family.changes)
    skeleton = skeleton_of(save(model, tmp_path))
    hidden, _ = skeleton.calls(IDS)
    skeleton.logits(IDS, hidden)
    read = {n for n, p in skeleton.model.named_parameters() if not p.is_meta}
    assert read
    assert not any("vision" in name or "projector" in name for name in read)
    sizes = [
        p.numel() for n, p in model.named_parameters() if "embed_tokens" in n or "lm_head" in n
    ]
    assert skeleton.outer_bytes() == 4 * (sum(sizes) + 64)  # and the last norm


def test_a_whole_model_has_its_vision_tower(tmp_path, text):
    family = FAMILIES["llava"]
    model = tiny_model("llava", vision=family.vision, **family.changes)
    folder = save(model, tmp_path / "model")
    run(folder, tmp_path / "out", text)
    result, _ = api.load(str(tmp_path / "out"))
    assert not any(p.is_meta for p in result.parameters())
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        recorded, expected = (
            m.model.vision_tower(pixels).last_hidden_state for m in (result, model)
        )
    assert_within(recorded, expected, model_rounding() * expected.abs().max())
