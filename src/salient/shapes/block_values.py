"""Values of a config that differ from block to block. Imports no torch.

Each function of FUNCTIONS returns, for each block, the values under Llama's names, or under those
that blocks.py, attention.py and extras.py read, which replace those of the config.
"""

from collections.abc import Callable
from typing import Any

from salient.core.records import is_list

from .config_aliases import searched_parts
from .config_reader import ConfigReader

Values = dict[str, Any]
# Counts that configs may repeat for each block, in a list.
LISTED = (
    "intermediate_size", "num_attention_heads", "num_key_value_heads", "num_experts",
    "num_experts_per_tok", "n_shared_experts", "moe_intermediate_size", "head_dim",
)  # fmt: skip


def listed_values(config: ConfigReader, layers: int) -> list[Values]:
    """Of the keys of LISTED whose value is a list, one number for each block."""
    values: list[Values] = [{} for _ in range(layers)]
    for name in LISTED:
        key, value = config.value(name)
        if is_list(value):
            numbers = config.integers(name) or []
            if len(numbers) < layers:
                config.refuse(key, f"a number, or a list of {layers}, one for each layer", value)
            for one, number in zip(values, numbers, strict=False):
                one[key] = number
    return values


def block_values(
    name: str, config: ConfigReader, kinds: list[str], listed: list[Values]
) -> list[Values]:
    """What differs in each block, in addition to `listed`.

    `name` is a key of FUNCTIONS, or "" for nothing; `kinds` are the attentions of the blocks.
    """
    saved = _saved(config, len(kinds))
    own: list[Values] = [{} for _ in kinds]
    if name:
        own = FUNCTIONS[name](config, kinds)
    return [one | other | last for one, other, last in zip(listed, own, saved, strict=True)]


def _saved(config: ConfigReader, layers: int) -> list[Values]:
    """What Transformers 5 writes for some layers, under their numbers."""
    values: list[Values] = [{} for _ in range(layers)]
    inner = config.within("per_layer_config")
    for key in inner.values:
        if not key.isdecimal() or int(key) >= layers:
            config.refuse("per_layer_config", f"an object of numbers of layers below {layers}")
        values[int(key)] = dict(inner.section(key))
    return values


def _shared_cache(config: ConfigReader, kinds: list[str]) -> list[Values]:
    """Gemma 3n and 4: the last blocks have no keys and values of their own."""
    first = len(kinds) - config.count("num_kv_shared_layers", 0, least=0)
    return [{"shares_cache": True} if index >= first else {} for index in range(len(kinds))]


def _gemma4(config: ConfigReader, kinds: list[str]) -> list[Values]:
    """Blocks of full attention have wider heads, of which values may be the keys."""
    merged = config.flag("attention_k_eq_v")
    full: Values = {"head_dim": config.count("global_head_dim", 512), "value_is_key": merged}
    if merged and config.has("num_global_key_value_heads"):
        full["num_key_value_heads"] = config.count("num_global_key_value_heads")
    wide = config.flag("use_double_wide_mlp")
    values = _shared_cache(config, kinds)
    for kind, own in zip(kinds, values, strict=True):
        if wide and own:
            own["intermediate_size"] = 2 * config.count("intermediate_size")
        if kind == "full":
            own |= full
    return values


def _sliding(config: ConfigReader, kinds: list[str]) -> list[Values]:
    """MiMo-V2: blocks with a window have heads, widths and sinks of their own."""
    named = {
        "num_attention_heads": "swa_num_attention_heads",
        "num_key_value_heads": "swa_num_key_value_heads",
        "head_dim": "swa_head_dim",
        "v_head_dim": "swa_v_head_dim",
    }
    sliding: Values = {n: config.count(key) for n, key in named.items() if config.has(key)}
    sliding["has_sinks"] = config.flag("add_swa_attention_sink_bias", default=True)
    full: Values = {"has_sinks": config.flag("add_full_attention_sink_bias")}
    return [dict(sliding if kind == "sliding" else full) for kind in kinds]


def _other_setting(config: ConfigReader, kinds: list[str]) -> list[Values]:
    """Step-3.5: blocks with a window have heads of their own."""
    other = config.section("attention_other_setting")
    names = {"num_attention_heads": "num_attention_heads", "head_dim": "head_dim",
             "num_attention_groups": "num_key_value_heads"}  # fmt: skip
    own: Values = {to: other[key] for key, to in names.items() if other.get(key) is not None}
    if config.has("num_sliding_attention_heads"):
        own["num_attention_heads"] = config.count("num_sliding_attention_heads")
    return [dict(own) if kind == "sliding" else {} for kind in kinds]


def _indexers(config: ConfigReader, kinds: list[str]) -> list[Values]:
    """GLM-5.2: some blocks take the tokens that the indexer of an earlier block picks."""
    layers = len(kinds)
    types = config.value("indexer_types")[1]
    pattern = config.value("index_topk_pattern")[1]
    step = config.count("index_topk_freq", 1)
    offset = config.count("index_skip_topk_offset", 2, least=0)
    if types is not None:
        shared = [name == "shared" for name in config.strings("indexer_types", layers) or []]
    elif isinstance(pattern, str):
        shared = [letter == "S" for letter in pattern.ljust(layers, "F")]
    else:
        shared = [max(index - offset + 1, 0) % step != 0 for index in range(layers)]
    return [{"index_shared": own} for own in shared[:layers]]


def _block_indexers(config: ConfigReader, kinds: list[str]) -> list[Values]:
    """MiniMax-M3: an indexer in the blocks of sparse attention."""
    sparse = config.within("sparse_attention_config")
    flags = sparse.integers("sparse_attention_freq")
    names = config.values.get("layer_types")
    if flags is None and is_list(names):
        flags = [int(name == "minimax_m3_sparse") for name in names]
    own: Values = {
        "index_head_dim": sparse.count("sparse_index_dim", config.count("index_head_dim", 128)),
        "index_n_heads": sparse.count("sparse_num_index_heads", config.count("index_n_heads", 4)),
    }
    flags = (flags or [])[: len(kinds)] + [0] * (len(kinds) - len(flags or []))
    return [{**own, "has_indexer": flag != 0} for flag in flags]


def _compressed(config: ConfigReader, kinds: list[str]) -> list[Values]:
    """DeepSeek-V4: tokens of a compressed entry, and which first blocks route by the token."""
    layers = len(kinds)
    ratios = config.integers("compress_ratios")
    if ratios is None:
        rates = config.section("compress_rates")
        known = {
            name: rates.get(name, tokens)
            for name, tokens in (
                ("compressed_sparse_attention", 4),
                ("heavily_compressed_attention", 128),
            )
        }
        names = config.strings("layer_types", layers)
        if names is None:
            names = ["heavily_compressed_attention"] * min(2, layers)
            names += [list(known)[index % 2 == 0] for index in range(layers - len(names))]
        ratios = [known.get(name, 0) for name in names]
    feeds = config.strings("mlp_layer_types", layers)
    hashed = config.count("num_hash_layers", 3, least=0)
    if feeds is not None:
        hashed = feeds.count("hash_moe")
    if len(ratios) < layers:
        config.refuse("compress_ratios", f"a list of {layers} numbers, one for each layer", ratios)
    return [
        {"compress_ratio": ratio, "routes_by_hash": index < hashed}
        for index, ratio in enumerate(ratios[:layers])
    ]


def _searched(config: ConfigReader, kinds: list[str]) -> list[Values]:
    """Nemotron-NAS: a search chose heads and widths for each block, or left parts out."""
    heads, hidden = config.count("num_attention_heads"), config.count("hidden_size")
    values: list[Values] = []
    for attention, feed in searched_parts(config)[: len(kinds)]:
        own: Values = {}
        group, times = attention.get("n_heads_in_group"), feed.get("ffn_mult")
        if type(group) is int and group > 0:
            own["num_key_value_heads"] = heads // group
        if isinstance(times, (int, float)):
            own["intermediate_size"] = -(-int(2 * times * hidden / 3) // 256) * 256
        if type(feed.get("intermediate_size")) is int:
            own["intermediate_size"] = feed["intermediate_size"]
        own["block_norms"] = 2 - bool(attention.get("no_op")) - bool(feed.get("no_op"))
        values.append(own)
    return values


def _heads_per_layer(config: ConfigReader, kinds: list[str]) -> list[Values]:
    """Laguna: queries of each block."""
    heads = config.integers("num_attention_heads_per_layer")
    if heads is None:
        return [{} for _ in kinds]
    if len(heads) != len(kinds):
        fits = f"a list of {len(kinds)} numbers, one for each layer"
        config.refuse("num_attention_heads_per_layer", fits, heads)
    return [{"num_attention_heads": number} for number in heads]


FUNCTIONS: dict[str, Callable[[ConfigReader, list[str]], list[Values]]] = {
    "shared cache": _shared_cache,
    "gemma 4": _gemma4,
    "sliding": _sliding,
    "other setting": _other_setting,
    "heads per layer": _heads_per_layer,
    "indexers": _indexers,
    "block indexers": _block_indexers,
    "compressed": _compressed,
    "searched": _searched,
}
