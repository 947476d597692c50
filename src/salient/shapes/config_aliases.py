"""Families whose configs describe the model in their own way. Imports no torch.

Each function returns the values, under Llama's names, that replace those of the config.
"""

from collections.abc import Callable
from typing import Any

from salient.core.records import is_list, is_object

from .config_reader import MOST_LAYERS, ConfigReader, list_of

# Attention and feed of a block for multi-token prediction, by its name in Nemotron-H's configs.
AHEAD = {
    "attention": ("full", "none"),
    "full_attention": ("full", "none"),
    "mamba": ("mixer", "none"),
    "moe": ("none", "experts"),
    "mlp": ("none", "dense"),
}
PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def _falcon(config: ConfigReader) -> dict[str, Any]:
    """One key-value head, as many as there are, or (new decoder) a number of its own."""
    heads = config.count("num_attention_heads")
    if config.flag("new_decoder_architecture"):
        kv, norms = config.count("num_kv_heads", heads), config.count("num_ln_in_parallel_attn", 2)
    else:
        kv = 1 if config.flag("multi_query", default=True) else heads
        norms = 1 if config.flag("parallel_attn", default=True) else 2
    return {"num_key_value_heads": kv, "num_kv_heads": None, "block_norms": norms}


def _stablelm(config: ConfigReader) -> dict[str, Any]:
    return {"block_norms": 1 if config.flag("use_parallel_residual") else 2}


def _opt(config: ConfigReader) -> dict[str, Any]:
    affine = config.flag("layer_norm_elementwise_affine", default=True)
    last = config.flag("do_layer_norm_before", default=True)
    last = last and not config.flag("_remove_final_layer_norm")
    return {"block_norms": 2 * affine, "outer_norms": int(last and affine)}


def _multi_query(config: ConfigReader) -> dict[str, Any]:
    return {"num_key_value_heads": 1} if config.flag("multi_query", default=True) else {}


def _minicpm3(config: ConfigReader) -> dict[str, Any]:
    """Heads of values are as wide as those of Llama."""
    heads = config.count("num_attention_heads")
    return {"v_head_dim": config.count("v_head_dim", config.count("hidden_size") // heads)}


def _lfm2(config: ConfigReader) -> dict[str, Any]:
    """The width of the MLP is two thirds of the one stated, rounded up to a multiple."""
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return {}
    stated = config.count("block_ff_dim" if config.has("block_ff_dim") else "intermediate_size")
    inner = int(config.factor("block_ffn_dim_multiplier", 1) * int(2 * stated / 3))
    multiple = config.count("block_multiple_of", 256)
    return {"intermediate_size": max(1, multiple * -(-inner // multiple))}


def _lettered(config: ConfigReader, pattern: str, key: str) -> list[str] | None:
    """A list of names under `key`, or a string of letters under `pattern`."""
    letters, listed = config.value(pattern)[1], config.value(key)[1]
    if listed is None and letters is not None:
        if not isinstance(letters, str) or not set(letters) <= set(PATTERN):
            config.refuse(pattern, f"a string of the letters {' '.join(PATTERN)}")
        listed = [PATTERN[letter] for letter in letters]
    names = list_of(listed, str)
    if listed is not None and names is None:
        config.refuse(key, "a list of names")
    return names


def _nemotron_h(config: ConfigReader) -> dict[str, Any]:
    """Blocks are a mixer, an attention, an MLP or experts, by a list or a string of letters."""
    names = _lettered(config, "hybrid_override_pattern", "layers_block_type")
    if names is None:
        config.missing("layers_block_type")
    ahead = _lettered(config, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    feeds = [{"moe": "sparse", "mlp": "dense"}.get(name, "none") for name in names]
    return {
        "ahead_blocks": [AHEAD[name] for name in ahead or () if name in AHEAD],
        "layer_types": names,
        "layers_block_type": None,
        "mlp_layer_types": feeds,
        "num_hidden_layers": len(names),
    }


def _llama4(config: ConfigReader) -> dict[str, Any]:
    """Chunked attention where there is a rotary embedding, else full attention."""
    if config.has("layer_types"):
        return {}
    layers = config.count("num_hidden_layers", most=MOST_LAYERS)
    rotary = config.integers("no_rope_layers") or []
    step = config.count("no_rope_layer_interval", 4, most=MOST_LAYERS)
    if len(rotary) != layers:
        rotary = [(index + 1) % step for index in range(layers)]
    return {"layer_types": ["chunked_attention" if r else "full_attention" for r in rotary]}


def _letters(config: ConfigReader) -> dict[str, Any]:
    """EXAONE's "LLLG": local blocks and global ones."""
    pattern = config.values.get("sliding_window_pattern")
    if not isinstance(pattern, str):
        return {}
    if not pattern or not set(pattern) <= {"L", "G"}:
        config.refuse("sliding_window_pattern", "a number or a string of L and G")
    layers = config.count("num_hidden_layers", most=MOST_LAYERS)
    letters = [pattern[index % len(pattern)] for index in range(layers)]
    letters[-1] = "G"
    names = {"L": "sliding_attention", "G": "full_attention"}
    return {"layer_types": [names[letter] for letter in letters]}


def _attention_list(config: ConfigReader) -> dict[str, Any]:
    """1 for a block of full attention, 0 for one of lightning attention."""
    listed = config.integers("attn_type_list")
    if config.has("layer_types") or listed is None:
        return {}
    return {"layer_types": ["full_attention" if full else "linear_attention" for full in listed]}


def _mllama(config: ConfigReader) -> dict[str, Any]:
    """Blocks that attend to the image, and 8 rows of the embedding for its tokens."""
    layers = config.count("num_hidden_layers", most=MOST_LAYERS)
    across = frozenset(config.integers("cross_attention_layers") or ())
    kinds = ["cross_attention" if i in across else "full_attention" for i in range(layers)]
    return {"layer_types": kinds, "extra_rows": 8}


def _gemma4(config: ConfigReader) -> dict[str, Any]:
    """Experts next to the MLP in every block, with three more norms."""
    layers = config.count("num_hidden_layers", most=MOST_LAYERS)
    both = config.flag("enable_moe_block")
    if config.has("num_experts") and not config.has("enable_moe_block"):
        config.missing("enable_moe_block")
    values: dict[str, Any] = {"mlp_layer_types": ["both" if both else "dense"] * layers}
    names = config.strings("layer_types", layers)
    if names:  # Transformers makes the last one full
        values["layer_types"] = [*names[:-1], "full_attention"]
    return values | {"block_norms": 7 if both else 4}


def _hybrid_pattern(config: ConfigReader) -> dict[str, Any]:
    """MiMo-V2: 1 for a block with a window."""
    pattern = config.integers("hybrid_layer_pattern")
    if pattern is None:
        return {}
    return {"layer_types": ["sliding_attention" if one else "full_attention" for one in pattern]}


def _step(config: ConfigReader) -> dict[str, Any]:
    """Blocks of experts by a list in a string."""
    listed = config.value("moe_layers_enum")[1]
    layers = config.count("num_hidden_layers", most=MOST_LAYERS)
    if isinstance(listed, str):
        listed = [int(part) for part in listed.split(",") if part.strip().isdecimal()]
    if config.has("mlp_layer_types") or config.has("first_k_dense_replace"):
        return {}
    return {"moe_layers": listed or list(range(min(3, layers), layers))}


def _kimi_linear(config: ConfigReader) -> dict[str, Any]:
    """The linear attention has a section of its own; blocks are counted from 1."""
    own = config.within("linear_attn_config")
    layers = config.count("num_hidden_layers", most=MOST_LAYERS)
    full, linear = own.integers("full_attn_layers"), own.integers("kda_layers")
    values: dict[str, Any] = {
        "linear_head_dim": own.count("head_dim", config.count("linear_head_dim", 128)),
        "linear_num_heads": own.count("num_heads", config.count("linear_num_heads", 32)),
        "linear_conv_kernel_dim": own.count("short_conv_kernel_size", 4),
        "linear_full_rank_gate": own.flag("use_full_rank_gate"),
    }
    if full is not None and linear is not None:
        if sorted((*full, *linear)) != list(range(1, layers + 1)):
            config.refuse(
                "linear_attn_config", f"full_attn_layers and kda_layers with 1 to {layers} once"
            )
        kinds = ["full_attention" if i + 1 in full else "linear_attention" for i in range(layers)]
        values["layer_types"] = kinds
    elif not config.has("layer_types"):
        kinds = ["linear_attention" if i % 4 or not i else "full_attention" for i in range(layers)]
        values["layer_types"] = kinds
    return values


def _bailing_hybrid(config: ConfigReader) -> dict[str, Any]:
    """The last block of each group has full attention."""
    layers = config.count("num_hidden_layers", most=MOST_LAYERS)
    group = config.count("layer_group_size", 6, most=MOST_LAYERS)
    kinds = ["linear_attention" if i % group else "full_attention" for i in range(1, layers + 1)]
    heads = config.count("num_attention_heads")
    own = config.count("linear_head_dim", config.count("head_dim", 128))
    return {
        "linear_head_dim": own,
        "linear_num_heads": config.count("linear_num_heads", heads),
        "linear_conv_kernel_dim": config.count(
            "linear_conv_kernel_dim", config.count("short_conv_kernel_size", 4)
        ),
        "linear_full_rank_gate": True,
        "linear_full_rank_forget": True,
        "layer_types": config.strings("layer_types", layers) or kinds,
    }


def _chatglm(config: ConfigReader) -> dict[str, Any]:
    norms = 2 if config.flag("post_layer_norm", default=True) else 1
    many = not config.flag("multi_query_attention")
    return {
        "outer_norms": norms - 1,
        "num_key_value_heads": config.count("num_attention_heads")
        if many
        else config.count("multi_query_group_num"),
    }


def searched_parts(config: ConfigReader) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Attention and MLP of each block of Nemotron-NAS, by its block_configs."""
    blocks: Any = config.value("block_configs")[1]
    parts: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for block in blocks if is_list(blocks) else [None]:
        one: Any = block.get("attention") if is_object(block) else None
        other: Any = block.get("ffn") if is_object(block) else None
        if not is_object(one) or not is_object(other):
            config.refuse("block_configs", "a list of objects with attention and ffn")
        parts.append((one, other))
    return parts


def _searched(config: ConfigReader) -> dict[str, Any]:
    """Nemotron-NAS: blocks without attention, or without an MLP."""
    parts = searched_parts(config)
    attention = ["moe" if one.get("no_op") else "full_attention" for one, _ in parts]
    return {
        "num_key_value_heads": config.count("num_attention_heads"),
        "intermediate_size": config.count("hidden_size"),
        "layer_types": attention,
        "mlp_layer_types": ["none" if other.get("no_op") else "dense" for _, other in parts],
    }


def _longcat(config: ConfigReader) -> dict[str, Any]:
    """Each layer is two blocks, the first of which has experts next to its MLP."""
    layers = config.count("num_hidden_layers", most=MOST_LAYERS // 2)
    return {"num_layers": 2 * layers, "mlp_layer_types": ["both", "dense"] * layers}


def _dbrx(config: ConfigReader) -> dict[str, Any]:
    attention, experts = config.within("attn_config"), config.within("ffn_config")
    return {
        "hidden_size": config.count("hidden_size", experts.count("hidden_size", 2048)),
        "num_key_value_heads": attention.count("kv_n_heads", 1),
        "intermediate_size": experts.count("ffn_hidden_size", 3584),
        "num_experts": experts.count("moe_num_experts", 4),
        "num_experts_per_tok": experts.count("moe_top_k", 1),
    }


def _half_width(config: ConfigReader) -> dict[str, Any]:
    """The stated width is that of gate and up together."""
    return {"intermediate_size": config.count("intermediate_size", least=2) // 2}


def _post_norms(config: ConfigReader) -> dict[str, Any]:
    return {"block_norms": 4 if config.flag("use_post_norm") else 2}


ALIASES: dict[str, Callable[[ConfigReader], dict[str, Any]]] = {
    "falcon": _falcon,
    "stablelm": _stablelm,
    "opt": _opt,
    "gpt_bigcode": _multi_query,
    "lfm2": _lfm2,
    "minicpm3": _minicpm3,
    "nemotron_h": _nemotron_h,
    "llama4_text": _llama4,
    "exaone4": _letters,
    "exaone4_5_text": _letters,
    "exaone_moe": _letters,
    "minimax": _attention_list,
    "mllama_text": _mllama,
    "gemma4_text": _gemma4,
    "mimo_v2_flash": _hybrid_pattern,
    "step3p5": _step,
    "step3p7": _step,
    "kimi_linear": _kimi_linear,
    "chatglm": _chatglm,
    "bailing_hybrid": _bailing_hybrid,
    "mimo_v2": _hybrid_pattern,
    "minimax_text_01": _attention_list,
    "minimax_m1": _attention_list,
    "nemotron-nas": _searched,
    "gemma4_unified_text": _gemma4,
    "longcat_flash": _longcat,
    "dbrx": _dbrx,
    "qwen": _half_width,
    "hyperclovax": _post_norms,
}
