"""Which kind of attention and of MLP each block has, by the many words that configs have for it.

Imports no torch.
"""

from .config_reader import MOST_LAYERS, ConfigReader
from .family import Family

# What configs call a block's attention -> a word of ours: "mixer" is what stands in its place,
# "both" has both side by side, "none" is a block of an MLP alone.
NAMES = {
    "full_attention": "full",
    "attention": "full",
    "indexed_attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "mixer",
    "mamba": "mixer",
    "conv": "mixer",
    "hybrid": "both",
    "moe": "none",
    "mlp": "none",
}


def attentions(row: Family, says: ConfigReader, layers: int) -> list[str]:
    """Of each block: "full", "sliding", "chunked", "mixer", "both" or "none"."""
    word = "layer_types" if says.has("layer_types") else "layers_block_type"
    named = says.words(word, layers)
    if named is None:
        return _mixed(row, says, layers) if row.mixer else _windowed(row, says, layers)
    if not set(named) <= set(NAMES):
        says.refuse(word, f"a list of {', '.join(NAMES)}", sorted(set(named) - set(NAMES)))
    found = [NAMES[name] for name in named]
    if not row.mixer and {"mixer", "both"} & set(found):
        kind = says.model_type
        says.refuse(word, f"attention in every block, as models of type {kind!r} have it", named)
    return found


def _mixed(row: Family, says: ConfigReader, layers: int) -> list[str]:
    """Attention in some blocks only, or beside the mixer in all."""
    if row.beside:
        return ["both"] * layers
    for word in ("attn_layer_indices", "full_attn_idxs"):
        listed = says.numbers(word)
        if listed is not None:
            full = frozenset(listed)
            return ["full" if index in full else "mixer" for index in range(layers)]
    if says.has("attn_layer_period"):
        period = says.count("attn_layer_period", most=MOST_LAYERS)
        offset = says.count("attn_layer_offset", 0, least=0, most=MOST_LAYERS)
        return ["full" if i % period == offset % period else "mixer" for i in range(layers)]
    every = says.count("full_attention_interval", MOST_LAYERS + 1)
    return ["mixer" if (index + 1) % every else "full" for index in range(layers)]


def _windowed(row: Family, says: ConfigReader, layers: int) -> list[str]:
    """Full attention, but where the family lets sliding_window hold."""
    sized = says.has("sliding_window") and says.value("sliding_window")[1] != 0
    if not row.window or not sized:
        return ["full"] * layers
    if row.window == "pattern":
        word = "sliding_window_pattern"
        every = says.count(word if says.has(word) else f"_{word}", row.pattern, most=MOST_LAYERS)
        return ["sliding" if (index + 1) % every else "full" for index in range(layers)]
    if not says.flag("use_sliding_window", default=row.window == "all"):
        return ["full"] * layers
    first = says.count("max_window_layers", 0, least=0) if row.window == "flag" else 0
    return ["sliding" if index >= first else "full" for index in range(layers)]


def feeds(row: Family, says: ConfigReader, layers: int) -> list[str]:
    """What stands behind the attention of each block: "dense", "experts" or "none"."""
    named = says.words("mlp_layer_types", layers)
    if named:
        known = {"dense": "dense", "sparse": "experts", "none": "none"}
        if not set(named) <= set(known):
            says.refuse("mlp_layer_types", "a list of 'dense' and 'sparse'")
        return [known[name] for name in named]
    if row.experts is None or not says.has("num_experts") or says.count("num_experts", least=0) < 2:
        return ["experts" if _only_shared(row) else "dense"] * layers
    sparse = _sparse(says, layers)
    return ["experts" if index in sparse else "dense" for index in range(layers)]


def _only_shared(row: Family) -> bool:
    """Granite's hybrids without experts keep the shared one and nothing else."""
    return bool(row.experts and row.experts.shared_inner == "shared_intermediate_size")


def _sparse(says: ConfigReader, layers: int) -> frozenset[int]:
    """The blocks with experts, by any of the words that families have for it."""
    listed = says.numbers("moe_layers")
    if listed is not None:
        return frozenset(listed)
    first = max(
        says.count("first_k_dense_replace", 0, least=0),
        says.count("moe_layer_start_index", 0, least=0),
    )
    last = says.count("moe_layer_end_index", -1, least=-1)
    found = set(range(first, layers if last < 0 else min(layers, last + 1)))
    for word in ("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval"):
        step = says.count(word, 1, most=MOST_LAYERS)
        found &= set(range(step - 1, layers, step))
    period = says.count("expert_layer_period", 1, most=MOST_LAYERS)
    offset = says.count("expert_layer_offset", 0, least=0, most=MOST_LAYERS)
    found &= set(range(offset % period, layers, period))
    return frozenset(found.difference(says.numbers("mlp_only_layers") or ()))
