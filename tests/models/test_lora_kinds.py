"""The model that Salient reads with an adapter is the one that peft runs, for every kind of it."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers.toy_models import toy_folder
from salient.core.metrics import compare_logits
from salient.models.source_model import open_source_model

peft = pytest.importorskip("peft")
pytestmark = [pytest.mark.filterwarnings("ignore")]

LIST = ["q_proj", "down_proj"]
TIED = {"tie_word_embeddings": True}
MOE = {
    "kind": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
MIXTRAL = {"kind": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
GPT2 = {
    "kind": "gpt2",
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "head_dim": None,
    "num_key_value_heads": None,
    "intermediate_size": None,
    "hidden_size": None,
    "num_hidden_layers": None,
    "num_attention_heads": None,
    "max_position_embeddings": None,
    "n_positions": 512,
}
GATE_UP, DOWN = "mlp.experts.gate_up_proj", "mlp.experts.down_proj"
# kind -> the model, rows added to its vocabulary, the adapter, whether it unties the head
KINDS = {
    "linears": ({}, 0, {"target_modules": LIST}, False),
    "linears of a tied model": (TIED, 0, {"target_modules": LIST}, False),
    "all linears": ({}, 0, {"target_modules": "all-linear"}, False),
    "dora": ({}, 0, {"target_modules": LIST, "use_dora": True}, False),
    "pissa": ({}, 0, {"target_modules": LIST, "init_lora_weights": "pissa"}, False),
    "olora": ({}, 0, {"target_modules": LIST, "init_lora_weights": "olora"}, False),
    "norms": ({}, 0, {"modules_to_save": ["input_layernorm", "norm"]}, False),
    "tied: embedding saved": (TIED, 0, {"modules_to_save": ["embed_tokens"]}, True),
    "tied: head saved": (TIED, 0, {"modules_to_save": ["lm_head"]}, True),
    "tied: both saved": (TIED, 0, {"modules_to_save": ["embed_tokens", "lm_head"]}, True),
    "tied: saved as one": (
        TIED,
        0,
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        False,
    ),
    "tied: embedding by LoRA": (TIED, 0, {"target_modules": ["embed_tokens", "q_proj"]}, True),
    "tied: head by LoRA": (TIED, 0, {"target_modules": ["lm_head", "q_proj"]}, True),
    "tied: both by LoRA, as one": (
        TIED,
        0,
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
        False,
    ),
    "untied: embedding saved": ({}, 0, {"modules_to_save": ["embed_tokens"]}, False),
    "rows added": (TIED, 3, {}, False),
    "rows added, untied": ({}, 3, {}, False),
    "rows added, both saved": (TIED, 3, {"modules_to_save": ["embed_tokens", "lm_head"]}, True),
    "rows added, embedding saved": (TIED, 3, {"modules_to_save": ["embed_tokens"]}, True),
    "rows added, LoRA": (TIED, 3, {"target_modules": ["embed_tokens", "q_proj"]}, True),
    "rows added, untied, both saved": (
        {},
        3,
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        False,
    ),
    "tokens": (TIED, 0, {"trainable_token_indices": [5, 100]}, False),
    "tokens, untied": ({}, 0, {"trainable_token_indices": [5, 100]}, False),
    "tokens of both": (
        {},
        0,
        {"trainable_token_indices": {"embed_tokens": [5, 100], "lm_head": [7]}},
        False,
    ),
    "tokens added": (TIED, 3, {"trainable_token_indices": [320, 321]}, False),
    "experts": (MOE, 0, {"target_modules": [], "target_parameters": [GATE_UP, DOWN]}, False),
    "experts and linears": (
        MOE,
        0,
        {"target_modules": LIST[:1], "target_parameters": [DOWN]},
        False,
    ),
    "a router": (MOE, 0, {"target_modules": [], "target_parameters": ["mlp.gate.weight"]}, False),
    "experts by linears' names": (MOE, 0, {"target_modules": ["gate_proj", "up_proj"]}, False),
    "experts saved": (
        MOE,
        0,
        {"target_modules": ["q_proj"], "modules_to_save": ["experts"]},
        False,
    ),
    "experts of mixtral": (MIXTRAL, 0, {"target_modules": ["w1", "w2", "w3"]}, False),
    "transposed linears": (GPT2, 0, {"target_modules": ["c_attn", "c_proj"]}, False),
    "parameters of linears": (
        {},
        0,
        {"target_modules": [], "target_parameters": ["q_proj.weight"]},
        False,
    ),
}


def base(folder: Path, rows: int = 0):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if rows:
        torch.manual_seed(1)
        model.resize_token_embeddings(model.config.vocab_size + rows)
    return model


def train(model: Path, folder: Path, rows: int = 0, **settings):
    """Write a LoRA adapter of random values; the model that peft runs."""
    torch.manual_seed(0)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LIST, **settings})
    adapted = peft.get_peft_model(base(model, rows), config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
            elif parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    adapted.save_pretrained(folder)
    return adapted.eval()


def logits_of(model, rows: int = 0) -> torch.Tensor:
    ids = torch.randint(3, 320 + rows, (2, 48), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model(ids, use_cache=False).logits.flatten(0, 1)


def divergence(one: torch.Tensor, other: torch.Tensor) -> float:
    ids = torch.zeros(len(one), dtype=torch.long)
    return compare_logits(one, other, ids).kl


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapted_model_is_the_one_that_peft_runs(kind, tmp_path):
    changes, rows, settings, unties = KINDS[kind]
    model = toy_folder(tmp_path / "model", **changes)
    trained = train(model, tmp_path / "adapter", rows, **settings)
    expected = logits_of(trained, rows)
    read = open_source_model(model, adapter=tmp_path / "adapter").skeleton
    assert bool(read.ties.untied) == unties
    assert read.vocabulary == 320 + rows
    actual = logits_of(read.assemble().eval(), rows)
    assert divergence(expected, actual) < 1e-6
    if not rows:
        assert divergence(expected, logits_of(base(model).eval())) > 1e-4
