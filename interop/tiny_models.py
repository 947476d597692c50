"""Small random models of families that vLLM supports, wide enough for its kernels.

Some have a layer that predicts further tokens, in its published layout (`-mtp`), or a head that
scores texts (`-reward`). They test names, shapes and arithmetic. The tokenizer is the demo model's.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from salient.models.model_folder import model_folder

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 49152,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
MOE = {
    "moe_intermediate_size": 128,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gemma3_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 64,
        "query_pre_attn_scalar": 64,
    },
    "qwen3_moe": {**MOE, "decoder_sparse_step": 1, "norm_topk_prob": True},
    "mixtral": {**MOE, "intermediate_size": 256},
    "deepseek_v3": {
        **MOE,
        "num_key_value_heads": 4,
        "head_dim": None,
        "first_k_dense_replace": 1,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "topk_method": "noaux_tc",  # as published; required by vLLM
        "scoring_func": "sigmoid",
        "q_lora_rank": 128,
        "kv_lora_rank": 128,
        "qk_rope_head_dim": 32,
        "qk_nope_head_dim": 64,
        "v_head_dim": 64,
    },
}
FAMILIES["glm4_moe"] = {
    **{k: v for k, v in FAMILIES["deepseek_v3"].items() if k in MOE},
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "use_qk_norm": True,
}


def tiny_model(family: str, folder: Path, dtype: str) -> Path:
    """The folder of the random model of `family` in `dtype`, written if it does not exist.

    family: a key of FAMILIES, with or without '-mtp' or '-reward'
    """
    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(0)
    family, _, variant = family.partition("-")
    sizes = {k: v for k, v in (SIZES | FAMILIES[family]).items() if v is not None}
    sizes |= {"num_labels": 1} if variant == "reward" else {}
    config = AutoConfig.for_model(family, **sizes)
    auto = AutoModelForSequenceClassification if variant == "reward" else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER:
        if (model_folder("smollm2-135m") / name).exists():
            shutil.copyfile(model_folder("smollm2-135m") / name, folder / name)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    if variant == "mtp":
        add_mtp_layer(folder)
    return folder


def add_mtp_layer(folder: Path) -> None:
    """Add a layer that predicts a further token, as DeepSeek-V3 and GLM-4.5 publish it."""
    path, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    tensors, count, width = load_file(path), config["num_hidden_layers"], config["hidden_size"]
    last, own = f"model.layers.{count - 1}.", f"model.layers.{count}."
    norm = tensors["model.norm.weight"]
    tensors |= {n.replace(last, own): t.clone() for n, t in tensors.items() if n.startswith(last)}
    tensors |= {
        f"{own}eh_proj.weight": torch.randn(width, 2 * width).to(norm.dtype) / width**0.5,
        f"{own}enorm.weight": norm.clone(),
        f"{own}hnorm.weight": norm.clone(),
        f"{own}shared_head.norm.weight": norm.clone(),
        f"{own}shared_head.head.weight": tensors["lm_head.weight"].clone(),
        f"{own}embed_tokens.weight": tensors["model.embed_tokens.weight"].clone(),
    }
    save_file(tensors, path, metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
