"""Families whose configs describe the model in their own way. Imports no torch.

Each function returns the values, under Llama's names, that replace those of the config.
"""

from collections.abc import Callable
from typing import Any, cast

from .config_reader import MOST_LAYERS, ConfigReader, list_of

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


def _lfm2(config: ConfigReader) -> dict[str, Any]:
    """The width of the MLP is two thirds of the one stated, rounded up to a multiple."""
    if not config.flag("block_auto_adjust_ff_dim", default=True):
        return {}
    stated = config.count("block_ff_dim" if config.has("block_ff_dim") else "intermediate_size")
    inner = int(config.factor("block_ffn_dim_multiplier", 1) * int(2 * stated / 3))
    multiple = config.count("block_multiple_of", 256)
    return {"intermediate_size": max(1, multiple * -(-inner // multiple))}


def _nemotron_h(config: ConfigReader) -> dict[str, Any]:
    """Blocks are a mixer, an attention, an MLP or experts, by a list or a string of letters."""
    letters = config.values.get("hybrid_override_pattern")
    listed = config.values.get("layers_block_type")
    if listed is None and letters is not None:
        if not isinstance(letters, str) or not set(letters) <= set(PATTERN):
            config.refuse("hybrid_override_pattern", f"a string of the letters {' '.join(PATTERN)}")
        listed = [PATTERN[letter] for letter in letters]
    if listed is None:
        config.missing("layers_block_type")
    names = list_of(listed, str)
    if names is None:
        config.refuse("layers_block_type", "a list of names")
    feeds = [{"moe": "sparse", "mlp": "dense"}.get(name, "none") for name in names]
    return {
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


def _per_block(config: ConfigReader) -> dict[str, Any]:
    """Numbers that a config repeats for each block."""
    values: dict[str, Any] = {}
    for key in ("num_experts", "moe_topk", "num_shared_expert", "moe_intermediate_size"):
        value = config.values.get(key)
        if isinstance(value, list) and value:
            first = cast(list[Any], value)[0]
            if value != [first] * len(cast(list[Any], value)):
                config.refuse(key, "one number, or the same for each block")
            values[key] = first
    return values


def _attention_list(config: ConfigReader) -> dict[str, Any]:
    """1 for a block of full attention, 0 for one of lightning attention."""
    listed = config.integers("attn_type_list")
    if config.has("layer_types") or listed is None:
        return {}
    return {"layer_types": ["full_attention" if full else "linear_attention" for full in listed]}


ALIASES: dict[str, Callable[[ConfigReader], dict[str, Any]]] = {
    "falcon": _falcon,
    "stablelm": _stablelm,
    "opt": _opt,
    "gpt_bigcode": _multi_query,
    "lfm2": _lfm2,
    "nemotron_h": _nemotron_h,
    "llama4_text": _llama4,
    "exaone4": _letters,
    "hunyuan_v1_moe": _per_block,
    "minimax": _attention_list,
}
