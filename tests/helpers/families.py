"""The families that Salient is tested on: how to build a tiny model of each, and what is expected.

The models are random with spread-out norm gains and have every kind of block of their family.
`scaled` counts the kinds of proven scale groups over all blocks, groups of like experts once;
`refused` names the first readers of inputs that no scale fits, and `left` the unquantized matrices
of the blocks.
"""

import os
from dataclasses import dataclass, field
from typing import Any

from salient.models.tracing import pattern


@dataclass(frozen=True)
class Family:
    """How to build a tiny model of a family (changes to toy_models.SIZES), and what is expected."""

    scaled: int
    refused: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    changes: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] | None = None  # the rest of a config whose text part has `changes`


SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
MHA = {"num_key_value_heads": 4}
# GPT-2's names
GPT = {
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 96,
    "n_positions": 512,
    **dict.fromkeys(
        ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"), None
    ),
    "head_dim": None,
    "max_position_embeddings": None,
}
MPT = {**GPT, "d_model": 64, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 512}
MOE = {
    "moe_intermediate_size": 32,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 64,
}
SHARED = {**MOE, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
MLA = {
    **SHARED,
    **MHA,
    "n_group": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "head_dim": None,
}
DELTA = {
    "num_hidden_layers": 4,  # three linear-attention blocks, one of full attention
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
JAMBA = {
    **MOE,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "mamba_d_state": 32,
    "mamba_dt_rank": 32,
    "mamba_expand": 2,
    "use_mamba_kernels": False,
}
NEMOTRON_H = {
    **MOE,
    "num_hidden_layers": 4,
    "layers_block_type": ["mamba", "attention", "moe", "mlp"],
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 1,
    "n_group": 1,
    "topk_group": 1,
    "moe_shared_expert_intermediate_size": 32,
}
LLAMA4 = {
    **MOE,
    "intermediate_size_mlp": 96,
    "intermediate_size": 32,
    "interleave_moe_layer_step": 2,
    "attention_chunk_size": 64,
}
ERNIE = {
    **MOE,
    "moe_num_experts": 8,
    "moe_k": 2,
    "moe_num_shared_experts": 1,
    "moe_layer_start_index": 1,
}
GRANITE_HYBRID = {
    **MOE,
    **MAMBA2,
    "layer_types": ["mamba", "attention"],
    "shared_intermediate_size": 64,
    "head_dim": None,
}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
QWEN_VISION = {
    "vision_config": {
        "depth": 2,
        "hidden_size": 64,
        "embed_dim": 64,
        "num_heads": 4,
        "out_hidden_size": 64,
        "intermediate_size": 96,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 16,
    }
}
TOWER = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 16,
    "projection_dim": 64,
}
CLIP = {"model_type": "clip_vision_model", **TOWER}
SIGLIP = {"model_type": "siglip_vision_model", **TOWER}

FAMILIES: dict[str, Family] = {
    "llama": Family(4),
    "mistral": Family(4, changes={"sliding_window": 8}),
    "ministral": Family(4, changes=SLIDING),
    "qwen2": Family(4),
    "qwen3": Family(4),
    "gemma": Family(4),
    "gemma2": Family(4, changes=SLIDING),
    "gemma3_text": Family(4, changes=SLIDING),
    "phi": Family(2, refused=("mlp.fc2",), changes=MHA),
    "phi3": Family(4),
    "smollm3": Family(4),
    "olmo": Family(2, refused=("self_attn.q_proj", "mlp.gate_proj")),
    "olmo2": Family(2, refused=("self_attn.q_proj", "mlp.gate_proj")),
    "opt": Family(4, changes={"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "gpt2": Family(3, refused=("mlp.c_proj",), changes=GPT),
    "gpt_neox": Family(3, refused=("mlp.dense_4h_to_h",)),
    "gptj": Family(2, refused=("mlp.fc_out",), changes={**GPT, "rotary_dim": 8}),
    "falcon": Family(
        3,
        refused=("mlp.dense_4h_to_h",),
        changes={"new_decoder_architecture": True, "num_kv_heads": 2, "head_dim": None},
    ),
    "bloom": Family(3, refused=("mlp.dense_4h_to_h",), changes={"n_head": 4}),
    "mpt": Family(3, refused=("ffn.down_proj",), changes=MPT),
    "stablelm": Family(4),
    "starcoder2": Family(3, refused=("mlp.c_proj",)),
    "cohere": Family(3),
    "cohere2": Family(3, changes=SLIDING),
    "granite": Family(4),
    "glm": Family(4),
    "glm4": Family(4),
    "exaone4": Family(2, refused=("self_attn.q_proj", "mlp.gate_proj"), changes=SLIDING),
    "nemotron": Family(3, refused=("mlp.down_proj",)),
    "seed_oss": Family(4),
    "hunyuan_v1_dense": Family(4),
    "helium": Family(4),
    "arcee": Family(3, refused=("mlp.down_proj",)),
    "mixtral": Family(4, left=("mlp.gate",), changes=MOE),
    "qwen2_moe": Family(5, left=("mlp.gate", "mlp.shared_expert_gate"), changes=MOE),
    "qwen3_moe": Family(4, left=("mlp.gate",), changes=MOE),
    "olmoe": Family(4, left=("mlp.gate",), changes={**MOE, "intermediate_size": 32}),
    "deepseek_v2": Family(9, left=("mlp.gate",), changes=MLA),
    "deepseek_v3": Family(9, left=("mlp.gate",), changes=MLA),
    "glm4_moe": Family(7, left=("mlp.gate",), changes=SHARED),
    "glm4_moe_lite": Family(9, left=("mlp.gate",), changes={**MLA, "n_group": 1}),
    "qwen3_next": Family(7, left=("mlp.gate", "mlp.shared_expert_gate"), changes={**MOE, **DELTA}),
    "qwen3_5_moe_text": Family(
        7,
        left=(
            "linear_attn.in_proj_b",
            "linear_attn.in_proj_a",
            "mlp.gate",
            "mlp.shared_expert_gate",
        ),
        changes={**MOE, **DELTA},
    ),
    "granitemoe": Family(4, left=("block_sparse_moe.router",), changes={**MOE, "head_dim": None}),
    "phimoe": Family(4, left=("mlp.router",), changes=MOE),
    "llama4_text": Family(7, left=("feed_forward.router",), changes=LLAMA4),
    "gpt_oss": Family(
        3,
        refused=("mlp.experts.*.down_proj",),
        left=("mlp.router",),
        changes={**MOE, "intermediate_size": 32, "sliding_window": 8},
    ),
    "ernie4_5_moe": Family(7, left=("mlp.gate",), changes=ERNIE),
    "hunyuan_v1_moe": Family(5, left=("mlp.gate.wg",), changes={**MOE, "moe_topk": 2}),
    "minimax": Family(
        2,
        refused=("self_attn.qkv_proj", "self_attn.out_proj", "mlp.gate", "self_attn.q_proj"),
        left=("mlp.gate",),
        changes={**MOE, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "jamba": Family(
        7,
        refused=("mamba.x_proj", "mamba.out_proj", "mamba.dt_proj"),
        left=("feed_forward.router", "mamba.dt_proj"),
        changes=JAMBA,
    ),
    "nemotron_h": Family(
        6,
        refused=("mixer.shared_experts.down_proj", "mixer.experts.*.down_proj", "mixer.down_proj"),
        left=("mixer.gate",),
        changes=NEMOTRON_H,
    ),
    "falcon_h1": Family(
        4, refused=("mamba.out_proj",), changes={**MAMBA2, "mamba_d_head": 8, "mamba_d_ssm": 64}
    ),
    "granitemoehybrid": Family(7, left=("block_sparse_moe.router",), changes=GRANITE_HYBRID),
    "lfm2": Family(
        5, refused=("conv.out_proj",), changes={"layer_types": ["conv", "full_attention"]}
    ),
    "mamba2": Family(2, changes={"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1}),
    "qwen2_vl": Family(4, changes=MROPE, vision=QWEN_VISION),
    "qwen3_vl": Family(4, changes=MROPE, vision=QWEN_VISION),
    "llava": Family(4, changes={"model_type": "llama"}, vision={"vision_config": CLIP}),
    "gemma3": Family(
        4, changes=SLIDING, vision={"vision_config": SIGLIP, "mm_tokens_per_image": 4}
    ),
}

# For slow laws: one family of each row of docs/architectures.md, and four whose norms, fused rows
# and names differ. SALIENT_FAMILIES=all runs them on every family.
_ROWS = {(row.scaled, row.refused, row.left): kind for kind, row in FAMILIES.items()}
SAMPLED = [
    kind
    for kind in FAMILIES
    if os.environ.get("SALIENT_FAMILIES") == "all"
    or kind in {*_ROWS.values(), "llama", "gemma", "phi3", "gpt2"}
]


def scaled_and_refused(blocks: Any) -> tuple[int, tuple[str, ...]]:
    """The number of kinds of proven scale groups in `blocks`, and the readers that are in none.

    Groups of one shape in several blocks, and of experts, count once; refused ones go by their
    first reader.
    """
    scaled, refused = set(), {}
    for group in (group for groups in blocks for group in groups):
        kinds = tuple(sorted({pattern(name) for name in group.readers}))
        if group.proven:
            scaled.add((kinds, pattern(group.absorber)))
        elif not all("gate" in name or "router" in name for name in group.readers):
            refused[pattern(group.readers[0])] = None
    return len(scaled), tuple(refused)
