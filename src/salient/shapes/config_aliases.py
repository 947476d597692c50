"""Families that say it in words of their own: from those to Llama's. Imports no torch.

Each function gives the words that replace the config's.
"""

from collections.abc import Callable
from typing import Any

from .config_reader import MOST_LAYERS, ConfigReader

PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}


def _falcon(says: ConfigReader) -> dict[str, Any]:
    """One key-value head, as many as there are, or (new decoder) a number of its own."""
    heads = says.count("num_attention_heads")
    if says.flag("new_decoder_architecture"):
        kv, norms = says.count("num_kv_heads", heads), says.count("num_ln_in_parallel_attn", 2)
    else:
        kv = 1 if says.flag("multi_query", default=True) else heads
        norms = 1 if says.flag("parallel_attn", default=True) else 2
    return {"num_key_value_heads": kv, "num_kv_heads": None, "block_norms": norms}


def _stablelm(says: ConfigReader) -> dict[str, Any]:
    return {"block_norms": 1 if says.flag("use_parallel_residual") else 2}


def _opt(says: ConfigReader) -> dict[str, Any]:
    affine = says.flag("layer_norm_elementwise_affine", default=True)
    last = says.flag("do_layer_norm_before", default=True)
    last = last and not says.flag("_remove_final_layer_norm")
    return {"block_norms": 2 * affine, "outer_norms": int(last and affine)}


def _multi_query(says: ConfigReader) -> dict[str, Any]:
    return {"num_key_value_heads": 1} if says.flag("multi_query", default=True) else {}


def _lfm2(says: ConfigReader) -> dict[str, Any]:
    """The width of the MLP is two thirds of the one stated, rounded up to a multiple."""
    if not says.flag("block_auto_adjust_ff_dim", default=True):
        return {}
    stated = says.count("block_ff_dim" if says.has("block_ff_dim") else "intermediate_size")
    inner = int(says.factor("block_ffn_dim_multiplier", 1) * int(2 * stated / 3))
    of = says.count("block_multiple_of", 256)
    return {"intermediate_size": max(1, of * -(-inner // of))}


def _nemotron_h(says: ConfigReader) -> dict[str, Any]:
    """Blocks are a mixer, an attention, an MLP or experts, by a list or a string of letters."""
    letters = says.found.get("hybrid_override_pattern")
    names = says.found.get("layers_block_type")
    if names is None and letters is not None:
        if not isinstance(letters, str) or not set(letters) <= set(PATTERN):
            says.refuse("hybrid_override_pattern", f"a string of the letters {' '.join(PATTERN)}")
        names = [PATTERN[letter] for letter in letters]
    if names is None:
        says.missing("layers_block_type")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        says.refuse("layers_block_type", "a list of names")
    feeds = [{"moe": "sparse", "mlp": "dense"}.get(name, "none") for name in names]
    return {"layer_types": names, "layers_block_type": None, "mlp_layer_types": feeds,
            "num_hidden_layers": len(names)}  # fmt: skip


def _llama4(says: ConfigReader) -> dict[str, Any]:
    """Chunked attention where there is a rotary embedding, else full attention."""
    if says.has("layer_types"):
        return {}
    layers = says.count("num_hidden_layers", most=MOST_LAYERS)
    rotary = says.numbers("no_rope_layers") or []
    step = says.count("no_rope_layer_interval", 4, most=MOST_LAYERS)
    if len(rotary) != layers:
        rotary = [(index + 1) % step for index in range(layers)]
    return {"layer_types": ["chunked_attention" if r else "full_attention" for r in rotary]}


def _letters(says: ConfigReader) -> dict[str, Any]:
    """EXAONE's "LLLG": local blocks and global ones."""
    pattern = says.found.get("sliding_window_pattern")
    if not isinstance(pattern, str):
        return {}
    if not pattern or not set(pattern) <= {"L", "G"}:
        says.refuse("sliding_window_pattern", "a number or a string of L and G")
    layers = says.count("num_hidden_layers", most=MOST_LAYERS)
    letters = [pattern[index % len(pattern)] for index in range(layers)]
    letters[-1] = "G"
    names = {"L": "sliding_attention", "G": "full_attention"}
    return {"layer_types": [names[letter] for letter in letters]}


def _each_the_same(says: ConfigReader) -> dict[str, Any]:
    """Numbers that a config repeats for each block, once."""
    made = {}
    for word in ("num_experts", "moe_topk", "num_shared_expert", "moe_intermediate_size"):
        value = says.found.get(word)
        if isinstance(value, list) and value:
            if value != value[:1] * len(value):
                says.refuse(word, "one number, or the same for each block")
            made[word] = value[0]
    return made


def _attention_list(says: ConfigReader) -> dict[str, Any]:
    """1 for a block of full attention, 0 for one of lightning attention."""
    listed = says.numbers("attn_type_list")
    if says.has("layer_types") or listed is None:
        return {}
    return {"layer_types": ["full_attention" if one else "linear_attention" for one in listed]}


TRANSLATIONS: dict[str, Callable[[ConfigReader], dict[str, Any]]] = {
    "falcon": _falcon,
    "stablelm": _stablelm,
    "opt": _opt,
    "gpt_bigcode": _multi_query,
    "lfm2": _lfm2,
    "nemotron_h": _nemotron_h,
    "llama4_text": _llama4,
    "exaone4": _letters,
    "hunyuan_v1_moe": _each_the_same,
    "minimax": _attention_list,
}
