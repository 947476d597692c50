"""The kind of attention and of MLP of each block, by the many keys that configs have for it.

Imports no torch.
"""

from salient.core.records import is_list

from .ahead import layers_ahead
from .config_reader import MOST_LAYERS, ConfigReader
from .families import Family

# The name of a block's attention in configs -> ours: "mixer" replaces it, "both" has both in
# parallel, "none" is a block that has only an MLP, "cross" attends to an image.
NAMES = {
    **dict.fromkeys(
        (
            "full_attention", "attention", "global_attention", "indexed_attention",
            "deepseek_sparse_attention", "minimax_m3_sparse", "compressed_sparse_attention",
            "heavily_compressed_attention",
        ),
        "full",
    ),
    "cross_attention": "cross",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "mixer",
    "mamba": "mixer",
    "conv": "mixer",
    "hybrid": "both",
    "moe": "none",
    "mlp": "none",
}  # fmt: skip
FEEDS = {
    "dense": "dense",
    **dict.fromkeys(("sparse", "moe", "hash_moe"), "experts"),
    "both": "both",
    "none": "none",
}


def attentions(family: Family, config: ConfigReader, layers: int) -> list[str]:
    """Of each block: "full", "sliding", "chunked", "mixer", "both" or "none"."""
    key = "layer_types" if config.has("layer_types") else "layers_block_type"
    named = _listed(config, key, layers)
    if named is None:
        return _mixed(family, config, layers) if family.mixer else _windowed(family, config, layers)
    if novel := sorted(set(named) - set(NAMES)):
        config.guesses.append(f"{key} has {', '.join(novel)}, counted as full attention")
    kinds = [NAMES.get(name, "full") for name in named]
    if not family.mixer and {"mixer", "both"} & set(kinds):
        kind = config.model_type
        config.refuse(key, f"attention in every block, as models of type {kind!r} have it", named)
    return kinds


def _listed(config: ConfigReader, key: str, layers: int) -> list[str] | None:
    """A name for each block, without those of layers for multi-token prediction at the end."""
    listed, longer = config.value(key)[1], layers + layers_ahead(config)
    names = config.strings(key, longer if is_list(listed) and len(listed) == longer else layers)
    return None if names is None else names[:layers]


def _mixed(family: Family, config: ConfigReader, layers: int) -> list[str]:
    """Attention in some blocks, or in parallel with the mixer in all."""
    if family.parallel:
        return ["both"] * layers
    for key in ("attn_layer_indices", "full_attn_idxs"):
        listed = config.integers(key)
        if listed is not None:
            full = frozenset(listed)
            return ["full" if index in full else "mixer" for index in range(layers)]
    if config.has("attn_layer_period"):
        period = config.count("attn_layer_period", most=MOST_LAYERS)
        offset = config.count("attn_layer_offset", 0, least=0, most=MOST_LAYERS)
        return ["full" if i % period == offset % period else "mixer" for i in range(layers)]
    every = config.count("full_attention_interval", MOST_LAYERS + 1)
    return ["mixer" if (index + 1) % every else "full" for index in range(layers)]


def _windowed(family: Family, config: ConfigReader, layers: int) -> list[str]:
    """Full attention, except where sliding_window applies in the family."""
    sized = config.has("sliding_window") and config.value("sliding_window")[1] != 0
    if not family.window or not sized:
        return ["full"] * layers
    if family.window == "pattern":
        key = "sliding_window_pattern"
        every = config.count(
            key if config.has(key) else f"_{key}", family.pattern, most=MOST_LAYERS
        )
        return ["sliding" if (index + 1) % every else "full" for index in range(layers)]
    if not config.flag("use_sliding_window", default=family.window == "all"):
        return ["full"] * layers
    first = config.count("max_window_layers", 0, least=0) if family.window == "flag" else 0
    return ["sliding" if index >= first else "full" for index in range(layers)]


def feeds(family: Family, config: ConfigReader, layers: int) -> list[str]:
    """What follows the attention of each block: "dense", "experts" or "none"."""
    named = _listed(config, "mlp_layer_types", layers)
    if named:
        if not set(named) <= set(FEEDS):
            config.refuse("mlp_layer_types", "a list of 'dense' and 'sparse'")
        return [FEEDS[name] for name in named]
    if (
        family.experts is None
        or not config.has("num_experts")
        or config.count("num_experts", least=0) < 2
    ):
        return ["experts" if _only_shared(family) else "dense"] * layers
    sparse = _sparse(config, layers)
    return ["experts" if index in sparse else "dense" for index in range(layers)]


def _only_shared(family: Family) -> bool:
    """Granite's hybrids without experts have only the shared one."""
    return bool(family.experts and family.experts.shared_inner == "shared_intermediate_size")


def _sparse(config: ConfigReader, layers: int) -> frozenset[int]:
    """The blocks with experts, by any of the keys that families have for it."""
    listed = config.integers("moe_layers")
    if listed is not None:
        return frozenset(listed)
    if is_list(config.value("moe_layer_freq")[1]):
        flags = config.integers("moe_layer_freq") or []
        return frozenset(index for index, sparse in enumerate(flags[:layers]) if sparse)
    first = max(
        config.count("first_k_dense_replace", 0, least=0),
        config.count("moe_layer_start_index", 0, least=0),
    )
    last = config.count("moe_layer_end_index", -1, least=-1)
    sparse = set(range(first, layers if last < 0 else min(layers, last + 1)))
    for key in ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval"):
        step = config.count(key, 1, most=MOST_LAYERS)
        sparse &= set(range(step - 1, layers, step))
    step = config.count("moe_layer_freq", 1, most=MOST_LAYERS)  # DeepSeek's: from block 0 on
    sparse &= set(range(0, layers, step))
    period = config.count("expert_layer_period", 1, most=MOST_LAYERS)
    offset = config.count("expert_layer_offset", 0, least=0, most=MOST_LAYERS)
    sparse &= set(range(offset % period, layers, period))
    return frozenset(sparse.difference(config.integers("mlp_only_layers") or ()))
