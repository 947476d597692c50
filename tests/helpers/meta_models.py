"""Tiny models without weights, of every family in families.json."""

import functools
import json
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from helpers.families import (
    DELTA,
    FAMILIES,
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
    "glm4v": Family(0, changes=MROPE),
    "glm4v_moe": Family(0, changes={**SHARED, **MROPE}),
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
ALL = {**FAMILIES, **COUNTED}
# Published under another name, without a class in Transformers.
ALIKE = {"kimi_k2": "deepseek_v3"}
# Families with a tower that is only estimated.
ESTIMATED = ("glm4v", "glm4v_moe")


@functools.cache
def built(kind: str) -> tuple[dict[str, Any], torch.nn.Module]:
    """A tiny model without weights, and its config as a file has it."""
    family = ALL[kind]
    sizes = {key: value for key, value in {**SIZES, **family.changes}.items() if value is not None}
    nested = family.vision is not None or kind in ESTIMATED
    if nested:
        config = AutoConfig.for_model(kind, text_config=sizes, **(family.vision or {}))
    else:
        config = AutoConfig.for_model(kind, **sizes)
    code = AutoModelForImageTextToText if nested else AutoModelForCausalLM
    with torch.device("meta"):
        return json.loads(config.to_json_string(use_diff=False)), code.from_config(config)
