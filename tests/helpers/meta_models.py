"""Tiny models without weights, of every family in families.json."""

import functools
import json
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from helpers.families import (
    DELTA,
    FAMILIES,
    GPT,
    MAMBA2,
    MLA,
    MOE,
    MROPE,
    QWEN_VISION,
    SHARED,
    SLIDING,
    Family,
)
from helpers.toy_models import SIZES

INDEXER = {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 4}
TINY_VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 16,
}  # fmt: skip
SHARED_CACHE = {
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 300,
}
MLLAMA_VISION = {
    **TINY_VISION,
    "attention_heads": 2,
    "num_global_layers": 1,
    "vision_output_dim": 64,
    "intermediate_layers_indices": [0],
}
EXAONE_VISION = {
    "vision_config": {
        "depth": 2,
        "hidden_size": 64,
        "num_heads": 4,
        "num_key_value_heads": 2,
        "out_hidden_size": 64,
        "intermediate_size": 96,
    }
}
GLM_VISION = {
    "vision_config": {
        "depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64,
        "intermediate_size": 96, "image_size": 28,
    }
}  # fmt: skip
QWEN_AUDIO = {
    "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48,
    "output_dim": 64, "max_source_positions": 16,
}  # fmt: skip
GEMMA4_TOWERS = {
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 2, "position_embedding_size": 8,
    },
    "audio_config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
}  # fmt: skip
DEEPSEEK_V4 = {
    **MOE,
    **INDEXER,
    "num_hidden_layers": 5,
    "num_key_value_heads": 1,
    "q_lora_rank": 32,
    "o_lora_rank": 16,
    "o_groups": 2,
    "hc_mult": 2,
    "num_hash_layers": 1,
    "compress_ratios": [0, 4, 128, 4, 0],
}
KIMI_LINEAR = {
    **MLA,
    "q_lora_rank": None,
    "num_hidden_layers": 3,
    "linear_attn_config": {
        "full_attn_layers": [2],
        "kda_layers": [1, 3],
        "head_dim": 16,
        "num_heads": 2,
        "short_conv_kernel_size": 4,
    },
}
MINIMAX_M3 = {
    **MOE,
    "dense_intermediate_size": 96,
    "shared_intermediate_size": 32,
    "moe_layer_freq": [0, 1],
    "sparse_attention_config": {
        "sparse_attention_freq": [0, 1],
        "sparse_index_dim": 16,
        "sparse_num_index_heads": 2,
    },
}
STEP = {
    **MOE,
    "num_hidden_layers": 4,
    "share_expert_dim": 48,
    "layer_types": SLIDING["layer_types"] * 2,
    "sliding_window": 8,
    "attention_other_setting": {"num_attention_heads": 6},
}
# Families that are counted but not in tests/helpers/families.py.
COUNTED: dict[str, Family] = {
    **dict.fromkeys(("internlm3", "ernie4_5", "apertus", "vaultgemma"), Family(0)),
    **dict.fromkeys(("ministral3", "cwm", "olmo3"), Family(0, changes=SLIDING)),
    "gpt_bigcode": Family(0, changes=FAMILIES["gpt2"].changes),
    "qwen3_5_text": Family(0, changes=DELTA),
    "granitemoeshared": Family(
        0, changes={**MOE, "shared_intermediate_size": 64, "head_dim": None}
    ),
    "bamba": Family(0, changes={**MAMBA2, "attn_layer_indices": [1], "head_dim": None}),
    "deepseek_v32": Family(0, changes={**MLA, **INDEXER}),
    "glm_moe_dsa": Family(0, changes={**MLA, **INDEXER}),
    "dots1": Family(0, changes=SHARED),
    "solar_open": Family(0, changes=SHARED),
    "hy_v3": Family(0, changes={**SHARED, "num_shared_experts": 1}),
    "exaone_moe": Family(0, changes={**SHARED, **SLIDING, "mlp_layer_types": ["dense", "sparse"]}),
    "minimax_m2": Family(0, changes=MOE),
    "lfm2_moe": Family(
        0, changes={**MOE, "num_dense_layers": 1, "layer_types": ["conv", "full_attention"]}
    ),
    **dict.fromkeys(("mamba", "falcon_mamba"), Family(0, changes={"state_size": 16})),
    "qwen2_5_vl": Family(0, changes=MROPE, vision=QWEN_VISION),
    "qwen3_vl_moe": Family(0, changes={**MOE, **MROPE}, vision=QWEN_VISION),
    "qwen3_5": Family(0, changes={**DELTA, **MROPE}, vision=QWEN_VISION),
    "glm4v": Family(0, changes=MROPE, vision=GLM_VISION),
    "glm4v_moe": Family(0, changes={**SHARED, **MROPE}, vision=GLM_VISION),
    "mistral3": Family(
        0,
        changes={"model_type": "mistral"},
        vision={"vision_config": {"model_type": "pixtral", **TINY_VISION}},
    ),
    "llava_next": Family(
        0,
        changes={"model_type": "llama"},
        vision={"vision_config": {"model_type": "clip_vision_model", **TINY_VISION}},
    ),
    "paligemma": Family(
        0,
        changes={"model_type": "gemma"},
        vision={
            "vision_config": {
                "model_type": "siglip_vision_model",
                "projection_dim": 64,
                **TINY_VISION,
            },
            "projection_dim": 64,
        },
    ),
    **dict.fromkeys(
        ("idefics3", "smolvlm"),
        Family(0, changes={"model_type": "llama"}, vision={"vision_config": TINY_VISION}),
    ),
    "llama4": Family(
        0,
        changes=FAMILIES["llama4_text"].changes,
        vision={
            "vision_config": {
                **TINY_VISION,
                "vision_output_dim": 96,
                "projector_input_dim": 64,
                "projector_output_dim": 96,
            }
        },
    ),
}
COUNTED |= {
    "gemma3n_text": Family(
        0,
        changes={
            **SHARED_CACHE,
            "altup_num_inputs": 2,
            "laurel_rank": 8,
            "num_hidden_layers": 5,
            "layer_types": [*SLIDING["layer_types"] * 2, "full_attention"],
        },
    ),
    "gemma4_text": Family(
        0,
        changes={
            **SHARED_CACHE,
            **MOE,
            "num_hidden_layers": 4,
            "layer_types": SLIDING["layer_types"] * 2,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "enable_moe_block": True,
            "top_k_experts": 2,
            "use_double_wide_mlp": True,
        },
    ),
    "mllama": Family(
        0,
        changes={"cross_attention_layers": [1], "head_dim": None},
        vision={"vision_config": MLLAMA_VISION},
    ),
    "exaone4_5": Family(0, changes={"model_type": "exaone4"}, vision=EXAONE_VISION),
    "deepseek_v4": Family(0, changes=DEEPSEEK_V4),
    "kimi_linear": Family(0, changes=KIMI_LINEAR),
    "mimo_v2_flash": Family(
        0,
        changes={
            **MOE,
            "v_head_dim": 8,
            "layer_types": SLIDING["layer_types"],
            "mlp_layer_types": ["dense", "sparse"],
            "swa_num_key_value_heads": 4,
        },
    ),
    "minimax_m3_vl": Family(0, changes=MINIMAX_M3, vision={"vision_config": TINY_VISION}),
    **dict.fromkeys(("iquestcoder", "jais2", "nanochat"), Family(0)),
    **dict.fromkeys(("mellum", "flex_olmo", "kolibri1"), Family(0, changes=MOE)),
    **dict.fromkeys(("granite_swa", "granitemoe_swa"), Family(0, changes={**MOE, **SLIDING})),
    "flint": Family(0, changes={**MOE, **SLIDING, "mlp_only_layers": [0]}),
    "laguna": Family(
        0, changes={**MOE, **SLIDING, "gating": True, "num_attention_heads_per_layer": [2, 4]}
    ),
    "afmoe": Family(0, changes={**MOE, **SLIDING, "num_dense_layers": 1}),
    "axk1": Family(0, changes=MLA),
    "hy_v4": Family(0, changes={**MLA, **INDEXER, "n_group": 1, "hc_mult": 2}),
    **dict.fromkeys(
        ("minicpm3", "youtu"), Family(0, changes={**MLA, "tie_word_embeddings": False})
    ),
    "codegen": Family(0, changes={**GPT, "rotary_dim": 8}),
    "hyperclovax": Family(0, changes={"use_post_norm": True}),
    "olmo_hybrid": Family(
        0,
        changes={
            **DELTA,
            "num_hidden_layers": 2,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    "aria_text": Family(
        0, changes={"moe_num_experts": 8, "moe_topk": 2, "moe_num_shared_experts": 2}
    ),
    "cohere2_moe": Family(0, changes={**MOE, **SLIDING, "num_shared_experts": 1}),
    "gemma4_unified_text": Family(
        0, changes={**SHARED_CACHE, **SLIDING, "num_kv_shared_layers": 0}
    ),
    "gemma4": Family(
        0, changes=SHARED_CACHE | SLIDING | {"num_kv_shared_layers": 0}, vision=GEMMA4_TOWERS
    ),
    "llava_onevision": Family(
        0,
        changes={"model_type": "qwen2"},
        vision={
            "vision_config": {
                "model_type": "siglip_vision_model",
                "vision_use_head": False,
                **TINY_VISION,
            }
        },
    ),
    "cohere2_vision": Family(
        0,
        changes={"model_type": "cohere2", **SLIDING},
        vision={
            "vision_config": {"model_type": "siglip_vision_model", **TINY_VISION},
            "alignment_intermediate_size": 64,
        },
    ),
    "lfm2_vl": Family(
        0,
        changes={"model_type": "lfm2", **FAMILIES["lfm2"].changes},
        vision={
            "vision_config": {
                "model_type": "siglip2_vision_model",
                "num_patches": 16,
                **TINY_VISION,
            },
            "projector_hidden_size": 48,
        },
    ),
    "internvl": Family(
        0,
        changes={"model_type": "qwen2"},
        vision={
            "vision_config": {
                "model_type": "internvl_vision",
                **TINY_VISION,
                "image_size": [32, 32],
                "patch_size": [16, 16],
            }
        },
    ),
    "kimi_k25": Family(
        0,
        changes={"model_type": "deepseek_v3", **MLA},
        vision={"vision_config": {**TINY_VISION, "pos_emb_height": 4, "pos_emb_width": 4}},
    ),
    "qwen2_5_omni_thinker": Family(
        0, changes=MROPE, vision={**QWEN_VISION, "audio_config": QWEN_AUDIO}
    ),
    "qwen3_omni_moe_thinker": Family(
        0, changes={**MOE, **MROPE}, vision={**QWEN_VISION, "audio_config": QWEN_AUDIO}
    ),
    "mistral4": Family(0, changes=MLA),
    "lfm3": Family(0, changes={"layer_types": ["conv", "full_attention"]}),
    "bailing_hybrid": Family(
        0,
        changes={
            **MLA,
            "q_lora_rank": None,
            "layer_group_size": 2,
            "linear_head_dim": 16,
            "linear_num_heads": 2,
        },
    ),
    "step3p7": Family(0, changes=STEP, vision={"vision_config": TINY_VISION}),
}
ALL = {**FAMILIES, **COUNTED}
# Published under another name, without a class in Transformers.
ALIKE = {
    "kimi_k2": "deepseek_v3",
    "minimax_m3": "minimax_m3_vl",
    "step3p5": "step3p7",
    "exaone4_5_text": "exaone4",
    "qwen2_5_omni_text": "qwen2",
    "mimo_v2": "mimo_v2_flash",
    "minimax_text_01": "minimax",
    "minimax_m1": "minimax",
    "hunyuan_vl_text": "hunyuan_v1_dense",
    "qwen3_omni_moe_text": "qwen3_moe",
}
# Of remote code: compared with published counts in tests/shapes/test_published_shapes.py.
REMOTE = (
    "chatglm", "nemotron-nas", "longcat_flash", "deepseek", "bailing_moe", "bailing_moe_v2",
    "baichuan", "internlm", "internlm2", "qwen", "xverse", "aquila", "orion", "Yi", "minicpm",
    "exaone", "mimo", "jais", "grok-1", "dbrx", "phi3_v", "phi4mm",
)  # fmt: skip
# Families whose classes have gate and up in one matrix, which the files have in two.
FUSED = ("minimax_m3_vl",)


@functools.cache
def built(kind: str) -> tuple[dict[str, Any], torch.nn.Module]:
    """A tiny model without weights, and its config as a file has it."""
    family = ALL[kind]
    sizes = {key: value for key, value in {**SIZES, **family.changes}.items() if value is not None}
    nested = family.vision is not None
    if nested:
        config = AutoConfig.for_model(kind, text_config=sizes, **(family.vision or {}))
    else:
        config = AutoConfig.for_model(kind, **sizes)
    registered = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    code = AutoModelForCausalLM if registered and not nested else AutoModelForImageTextToText
    with torch.device("meta"):
        return json.loads(config.to_json_string(use_diff=False)), code.from_config(config)
