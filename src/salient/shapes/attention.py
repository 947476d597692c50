"""The attention of a block from a config: grouped, latent, compressed, cross. Imports no torch."""

from dataclasses import replace

from .blocks import is_true
from .config_reader import ConfigReader
from .families import AttentionNames
from .model_shape import BlockShape, CacheShape, LinearShape

OVERLAPPED = 4  # tokens of an entry whose neighbours overlap, which have an indexer
KINDS = {
    "full": "full attention",
    "sliding": "sliding attention",
    "chunked": "chunked attention",
    "cross": "cross attention",
}


def head_width(config: ConfigReader) -> int:
    """head_dim, or the hidden width over the heads. Raises ModelError where that is 0."""
    heads = config.count("num_attention_heads")
    hidden = config.count("hidden_size")
    if not config.has("head_dim") and heads > hidden:
        config.refuse("num_attention_heads", f"a number up to the hidden width {hidden}", heads)
    return config.count("head_dim", hidden // heads)


def attention_block(layout: AttentionNames, config: ConfigReader, kind: str) -> BlockShape:
    """The attention of a block; `kind` is a key of KINDS."""
    if layout.compressed:
        return _compressed(layout.module, config)
    if layout.latent:
        return _latent(layout, config, kind)
    if kind == "cross":  # keys and values of the image: none for a token of text
        across = replace(layout, module="cross_attn", norms="head", norms_if="")
        block = _grouped(across, config)
        return BlockShape(KINDS[kind], block.linears, CacheShape(), block.other + 2)
    block = _grouped(layout, config)
    cache = replace(block.cache, window=_window(config, kind))
    return replace(block, kind=KINDS[kind], cache=cache)


def _window(config: ConfigReader, kind: str) -> int | None:
    if kind == "full":
        return None
    return config.count("sliding_window" if kind == "sliding" else "attention_chunk_size")


def _kv_heads(config: ConfigReader) -> int:
    heads = config.count("num_attention_heads")
    kv = config.count("num_key_value_heads", heads)
    if heads % kv:
        key = config.value("num_key_value_heads")[0]
        config.refuse(key, f"a divisor of the {heads} attention heads", kv)
    return kv


def _grouped(layout: AttentionNames, config: ConfigReader) -> BlockShape:
    """Grouped-query attention (arXiv 2305.13245).

    A block that shares the cache of an earlier one has neither keys nor values.
    """
    hidden, wide = config.count("hidden_size"), head_width(config)
    heads, kv = config.count("num_attention_heads"), _kv_heads(config)
    value = config.count(layout.value_width, wide) if layout.value_width else wide
    shared = config.flag("shares_cache")
    bias = is_true(layout.bias, config)
    out_bias = bias if layout.out_bias is None else is_true(layout.out_bias, config)
    *entries, last = (f"{layout.module}.{name}" for name in layout.names)
    outs = [heads * wide * (2 if layout.gated else 1)]
    if not shared:
        outs += [kv * wide] if config.flag("value_is_key") else [kv * wide, kv * value]
    if len(entries) == 1:
        linears = [LinearShape(entries[0], sum(outs), hidden, bias=bias)]
    else:
        linears = [
            LinearShape(name, out, hidden, joined="qkv_proj", bias=bias)
            for name, out in zip(entries, outs, strict=False)
        ]
    linears.append(LinearShape(last, hidden, heads * value, split="in", bias=out_bias))
    if layout.gate and (not layout.gate_if or config.flag(layout.gate_if)):
        out = heads if layout.gate == "head" else heads * value
        linears.append(LinearShape(f"{layout.module}.{layout.gate_name}", out, hidden))
    other = heads if is_true(layout.sinks, config) else 0
    if layout.norms and (not layout.norms_if or config.flag(layout.norms_if)):
        normed = (1 if shared else 2) * wide if layout.norms == "head" else (heads + kv) * wide
        other += normed * (2 if layout.norm_bias else 1)
    cache = CacheShape(0 if shared else kv * (wide + value), kv)
    if layout.indexer and config.flag("has_indexer"):
        index = config.count("index_head_dim")
        indexer = f"{layout.module}.indexer"
        query = config.count("index_n_heads") * index
        linears.append(LinearShape(f"{indexer}.q_proj", query, hidden))
        linears.append(LinearShape(f"{indexer}.k_proj", index, hidden, split="none"))
        other += 2 * index
        cache = replace(cache, entry_values=index)
    return BlockShape("", tuple(linears), cache, other)


def _latent(layout: AttentionNames, config: ConfigReader, kind: str) -> BlockShape:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    The cache holds the latent of keys and values and one rotary key, whatever the number of heads.
    """
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    plain, rotary = config.count("qk_nope_head_dim"), config.count("qk_rope_head_dim")
    value, latent = config.count("v_head_dim"), config.count("kv_lora_rank")
    bias = is_true(layout.bias, config)
    query = heads * (plain + rotary)
    other = latent

    def path(name: str) -> str:
        return f"{layout.module}.{name}"

    if config.has("q_lora_rank"):
        rank, join = config.count("q_lora_rank"), "fused_qkv_a_proj"
        other += rank
        linears = [
            LinearShape(path("q_a_proj"), rank, hidden, split="none", joined=join, bias=bias),
            LinearShape(path("q_b_proj"), query, rank),
        ]
    else:
        rank, join = hidden, ""
        linears = [LinearShape(path("q_proj"), query, hidden)]
    cached, down = latent + rotary, path("kv_a_proj_with_mqa")
    linears += [
        LinearShape(down, cached, hidden, split="none", joined=join, bias=bias),
        LinearShape(path("kv_b_proj"), heads * (plain + value), latent),
        LinearShape(path("o_proj"), hidden, heads * value, split="in", bias=bias),
    ]
    other += heads if is_true(layout.sinks, config) else 0
    if layout.gate and (not layout.gate_if or config.flag(layout.gate_if)):
        out = heads if layout.gate == "head" else heads * value
        linears.append(LinearShape(path(layout.gate_name), out, hidden))
    if layout.indexer and not config.flag("index_shared"):
        wide = config.count("index_head_dim")
        linears += _indexer(path("indexer"), config, rank)
        other += 2 * wide  # a norm with a bias over its keys
        cached += wide
    title = "latent attention" if kind == "full" else KINDS[kind]
    cache = CacheShape(cached, 1, _window(config, kind))
    return BlockShape(title, tuple(linears), cache, other)


def _indexer(module: str, config: ConfigReader, rank: int) -> list[LinearShape]:
    """DeepSeek-V3.2's small attention, whose scores pick the tokens for the large one."""
    hidden, wide = config.count("hidden_size"), config.count("index_head_dim")
    heads = config.count("index_n_heads")
    return [
        LinearShape(f"{module}.wq_b", heads * wide, rank, split="none"),
        LinearShape(f"{module}.wk", wide, hidden, split="none"),
        LinearShape(f"{module}.weights_proj", heads, hidden, split="none", unquantized=True),
    ]


def _compressed(module: str, config: ConfigReader) -> BlockShape:
    """DeepSeek-V4's attention: keys that are their own values, of a window of single tokens and of
    entries that each join `compress_ratio` tokens; of every 4, an indexer picks among them.
    """
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    wide, rank = config.count("head_dim"), config.count("q_lora_rank")
    groups, low = config.count("o_groups"), config.count("o_lora_rank")
    ratio = config.count("compress_ratio", 0, least=0)
    linears = [
        LinearShape(f"{module}.wq_a", rank, hidden, split="none", joined="fused_wqa_wkv"),
        LinearShape(f"{module}.wq_b", heads * wide, rank),
        LinearShape(f"{module}.wkv", wide, hidden, split="none", joined="fused_wqa_wkv"),
        LinearShape(f"{module}.wo_a", groups * low, heads * wide // groups),
        LinearShape(f"{module}.wo_b", hidden, groups * low, split="in"),
    ]
    other, entry = heads + rank + wide, 0
    if ratio:
        linears += _compressor(f"{module}.compressor", hidden, wide, ratio)
        other += _positions(wide, ratio)
        entry = wide
    if ratio == OVERLAPPED:
        index, scorers = config.count("index_head_dim"), config.count("index_n_heads")
        own = f"{module}.indexer"
        linears.append(LinearShape(f"{own}.wq_b", scorers * index, rank, split="none"))
        linears.append(
            LinearShape(f"{own}.weights_proj", scorers, hidden, split="none", unquantized=True)
        )
        linears += _compressor(f"{own}.compressor", hidden, index, ratio)
        other += _positions(index, ratio)
        entry += index
    cache = CacheShape(wide, 1, config.count("sliding_window"), 0, entry, max(1, ratio))
    return BlockShape("compressed attention", tuple(linears), cache, other)


def _compressor(module: str, hidden: int, wide: int, ratio: int) -> list[LinearShape]:
    out = wide * (2 if ratio == OVERLAPPED else 1)
    return [
        LinearShape(f"{module}.{name}", out, hidden, split="none", unquantized=True)
        for name in ("wkv", "wgate")
    ]


def _positions(wide: int, ratio: int) -> int:
    """Of a compressor: a bias for each token of an entry, and a norm."""
    return ratio * wide * (2 if ratio == OVERLAPPED else 1) + wide
