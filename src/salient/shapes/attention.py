"""The matrices of an attention and what it keeps of each token. Imports no torch."""

from .config_reader import ConfigReader
from .family import AttentionNames, Fact
from .model_shape import BlockShape, CacheShape, LinearShape

KINDS = {
    "full": "full attention",
    "sliding": "sliding attention",
    "chunked": "chunked attention",
}


def holds(fact: Fact, says: ConfigReader) -> bool:
    """Whether a fact of the family is so, asking the config where it decides."""
    return says.flag(fact) if isinstance(fact, str) else fact


def head_width(says: ConfigReader) -> int:
    """head_dim, or the hidden width over the heads. Raises ModelError where that is nothing."""
    heads = says.count("num_attention_heads")
    hidden = says.count("hidden_size")
    if not says.has("head_dim") and heads > hidden:
        says.refuse("num_attention_heads", f"a number up to the hidden width {hidden}", heads)
    return says.count("head_dim", hidden // heads)


def attention_block(how: AttentionNames, says: ConfigReader, kind: str) -> BlockShape:
    """The attention of a block; `kind` is a word of KINDS."""
    linears, values, other = _latent(how, says) if how.latent else _grouped(how, says)
    heads = 1 if how.latent else _kv_heads(says)
    window = None
    if kind != "full":
        window = says.count("sliding_window" if kind == "sliding" else "attention_chunk_size")
    title = "latent attention" if how.latent and kind == "full" else KINDS[kind]
    return BlockShape(title, linears, CacheShape(values, heads, window), other)


def _kv_heads(says: ConfigReader) -> int:
    return says.count("num_key_value_heads", says.count("num_attention_heads"))


def _grouped(how: AttentionNames, says: ConfigReader) -> tuple[tuple[LinearShape, ...], int, int]:
    """Grouped-query attention (arXiv 2305.13245): linears, values a token, other parameters."""
    hidden, wide = says.count("hidden_size"), head_width(says)
    heads, kv = says.count("num_attention_heads"), _kv_heads(says)
    bias = holds(how.bias, says)
    out_bias = bias if how.out_bias is None else holds(how.out_bias, says)
    *reading, last = (f"{how.module}.{name}" for name in how.names)
    outs = [heads * wide * (2 if how.gated else 1), kv * wide, kv * wide]
    if len(reading) == 1:
        linears = [LinearShape(reading[0], sum(outs), hidden, bias=bias)]
    else:
        linears = [
            LinearShape(name, out, hidden, joined="qkv_proj", bias=bias)
            for name, out in zip(reading, outs, strict=True)
        ]
    linears.append(LinearShape(last, hidden, heads * wide, split="in", bias=out_bias))
    other = heads if how.sinks else 0
    if how.norms and (not how.norms_if or says.flag(how.norms_if)):
        normed = 2 * wide if how.norms == "head" else (heads + kv) * wide
        other += normed * (2 if how.norm_bias else 1)
    return tuple(linears), 2 * kv * wide, other


def _latent(how: AttentionNames, says: ConfigReader) -> tuple[tuple[LinearShape, ...], int, int]:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    It keeps the latent of keys and values and one rotary key, whatever the number of heads.
    """
    hidden, heads = says.count("hidden_size"), says.count("num_attention_heads")
    plain, rotary = says.count("qk_nope_head_dim"), says.count("qk_rope_head_dim")
    value, latent = says.count("v_head_dim"), says.count("kv_lora_rank")
    bias = holds(how.bias, says)
    asked = heads * (plain + rotary)
    other = latent

    def named(name: str) -> str:
        return f"{how.module}.{name}"

    if says.has("q_lora_rank"):
        rank, join = says.count("q_lora_rank"), "fused_qkv_a_proj"
        other += rank
        queries = [
            LinearShape(named("q_a_proj"), rank, hidden, split="none", joined=join, bias=bias),
            LinearShape(named("q_b_proj"), asked, rank),
        ]
    else:
        rank, join = hidden, ""
        queries = [LinearShape(named("q_proj"), asked, hidden)]
    kept, down = latent + rotary, named("kv_a_proj_with_mqa")
    linears = [
        *queries,
        LinearShape(down, kept, hidden, split="none", joined=join, bias=bias),
        LinearShape(named("kv_b_proj"), heads * (plain + value), latent),
        LinearShape(named("o_proj"), hidden, heads * value, split="in", bias=bias),
    ]
    if how.indexer:
        wide = says.count("index_head_dim")
        linears += _indexer(f"{how.module}.indexer", says, rank)
        other += 2 * wide  # a norm with a bias over its keys
        kept += wide
    return tuple(linears), kept, other


def _indexer(module: str, says: ConfigReader, rank: int) -> list[LinearShape]:
    """DeepSeek-V3.2's small attention, whose scores pick the tokens for the large one."""
    hidden, wide = says.count("hidden_size"), says.count("index_head_dim")
    heads = says.count("index_n_heads")
    return [
        LinearShape(f"{module}.wq_b", heads * wide, rank, split="none"),
        LinearShape(f"{module}.wk", wide, hidden, split="none"),
        LinearShape(f"{module}.weights_proj", heads, hidden, split="none", unquantized=True),
    ]
