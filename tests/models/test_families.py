"""Scale groups of many families, found by watching and proven by folding: no table of them."""

import pytest
import torch

from salient.formats.checkpoint import open_checkpoint
from salient.models.call import run_block
from salient.models.feeding import Probe
from salient.models.groups import TOLERANCE, find_groups
from salient.models.skeleton import Skeleton
from toy import save, tiny_model

NORM, VALUES, MLP_NORM, DOWN = "norm -> q k v", "v -> o", "norm -> mlp", "up -> down"
LLAMA = {NORM, VALUES, MLP_NORM, DOWN}
LAYER_TYPES = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
MHA = {"num_key_value_heads": 4}

# family -> (config changes, how many groups are proven in each block, how many are refused)
FAMILIES: dict[str, tuple[dict[str, object], int, int]] = {
    "llama": ({}, 4, 0),
    "mistral": ({"sliding_window": 8}, 4, 0),
    "ministral": ({**LAYER_TYPES}, 4, 0),
    "qwen2": ({}, 4, 0),
    "qwen3": ({}, 4, 0),
    "gemma": ({}, 4, 0),
    "gemma2": ({**LAYER_TYPES}, 4, 0),
    "gemma3_text": ({**LAYER_TYPES}, 4, 0),
    "phi": ({**MHA}, 2, 1),
    "phi3": ({}, 4, 0),
    "smollm3": ({}, 4, 0),
    "olmo": ({}, 2, 2),
    "olmo2": ({}, 2, 2),
    "opt": ({"ffn_dim": 96, "word_embed_proj_dim": 64}, 4, 0),
    "falcon": ({"new_decoder_architecture": True, "num_kv_heads": 2, "head_dim": None}, 3, 1),
    "stablelm": ({}, 4, 0),
    "cohere": ({}, 3, 0),
    "cohere2": ({**LAYER_TYPES}, 3, 0),
    "granite": ({}, 4, 0),
    "gpt_neox": ({}, 3, 1),
    "glm": ({}, 4, 0),
    "glm4": ({}, 4, 0),
    "starcoder2": ({}, 3, 1),
    "exaone4": ({**LAYER_TYPES}, 2, 2),
    "bloom": ({"n_head": 4}, 3, 1),
    "seed_oss": ({}, 4, 0),
    "hunyuan_v1_dense": ({}, 4, 0),
    "helium": ({}, 4, 0),
    "nemotron": ({}, 3, 1),
    "arcee": ({}, 3, 1),
}


def skeleton_of(folder, dtype=torch.float32):
    return Skeleton(open_checkpoint(folder), dtype, torch.device("cpu"))


def probes(skeleton):
    """(block, probe) for each block, with real hidden states."""
    ids = torch.randint(3, 250, (2, 16), generator=torch.Generator().manual_seed(1))
    hidden, calls = skeleton.calls(ids)
    single = skeleton.calls(ids[0, :, None])[1]
    for index in range(len(skeleton.blocks)):
        block = skeleton.block(index)
        yield block, Probe(hidden, calls[index], hidden[0, :, None], single[index])
        hidden = run_block(block, hidden, calls[index])


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_scale_group_of_a_dense_family_is_proven_or_refused_with_a_reason(kind, tmp_path):
    changes, proven, refused = FAMILIES[kind]
    skeleton = skeleton_of(save(tiny_model(kind, **changes), tmp_path))
    for index, (block, probe) in enumerate(probes(skeleton)):
        groups = find_groups(block, probe)
        assert {n for g in groups for n in g.readers} == set(skeleton.linears(index))
        kept = [g for g in groups if g.proven]
        assert all(g.proof_error is not None and g.proof_error < TOLERANCE for g in kept)
        assert all(g.refusal for g in groups if not g.proven)
        summary = [(g.readers, g.absorber, g.refusal) for g in groups]
        assert (len(kept), len(groups) - len(kept)) == (proven, refused), summary


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_streamed_model_gives_the_whole_models_logits(kind, tmp_path):
    model = tiny_model(kind, **FAMILIES[kind][0])
    skeleton = skeleton_of(save(model, tmp_path, torch.float32))
    ids = torch.randint(3, 250, (2, 24), generator=torch.Generator().manual_seed(2))
    hidden, calls = skeleton.calls(ids)
    for index in range(len(skeleton.blocks)):
        hidden = run_block(skeleton.block(index), hidden, calls[index])
    with torch.no_grad():
        expected = model(ids, use_cache=False).logits
    torch.testing.assert_close(skeleton.logits(ids, hidden), expected, rtol=1e-4, atol=1e-4)
