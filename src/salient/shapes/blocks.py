"""The parts of a block from a config: attention, mixers, MLPs, experts. Imports no torch.

A mixer replaces attention: a state space, a delta rule, a convolution. Its state is counted as vLLM
stores it (vllm/model_executor/layers/mamba/mamba_utils.py, 0.32): the last kernel - 1 inputs of the
convolution, and the state itself.
"""

from collections.abc import Callable
from math import ceil

from .config_reader import ConfigReader
from .families import AttentionNames, ExpertNames, Fact, MlpNames
from .model_shape import BlockShape, CacheShape, LinearShape, Part

KINDS = {
    "full": "full attention",
    "sliding": "sliding attention",
    "chunked": "chunked attention",
}


def is_true(fact: Fact, config: ConfigReader) -> bool:
    """A fact of the family, or the value of the flag that decides it."""
    return config.flag(fact) if isinstance(fact, str) else fact


def head_width(config: ConfigReader) -> int:
    """head_dim, or the hidden width over the heads. Raises ModelError where that is 0."""
    heads = config.count("num_attention_heads")
    hidden = config.count("hidden_size")
    if not config.has("head_dim") and heads > hidden:
        config.refuse("num_attention_heads", f"a number up to the hidden width {hidden}", heads)
    return config.count("head_dim", hidden // heads)


def attention_block(layout: AttentionNames, config: ConfigReader, kind: str) -> BlockShape:
    """The attention of a block; `kind` is a key of KINDS."""
    linears, values, other = _latent(layout, config) if layout.latent else _grouped(layout, config)
    heads = 1 if layout.latent else _kv_heads(config)
    window = None
    if kind != "full":
        window = config.count("sliding_window" if kind == "sliding" else "attention_chunk_size")
    title = "latent attention" if layout.latent and kind == "full" else KINDS[kind]
    return BlockShape(title, linears, CacheShape(values, heads, window), other)


def _kv_heads(config: ConfigReader) -> int:
    return config.count("num_key_value_heads", config.count("num_attention_heads"))


def _grouped(
    layout: AttentionNames, config: ConfigReader
) -> tuple[tuple[LinearShape, ...], int, int]:
    """Grouped-query attention (arXiv 2305.13245): linears, values a token, other parameters."""
    hidden, wide = config.count("hidden_size"), head_width(config)
    heads, kv = config.count("num_attention_heads"), _kv_heads(config)
    bias = is_true(layout.bias, config)
    out_bias = bias if layout.out_bias is None else is_true(layout.out_bias, config)
    *entries, last = (f"{layout.module}.{name}" for name in layout.names)
    outs = [heads * wide * (2 if layout.gated else 1), kv * wide, kv * wide]
    if len(entries) == 1:
        linears = [LinearShape(entries[0], sum(outs), hidden, bias=bias)]
    else:
        linears = [
            LinearShape(name, out, hidden, joined="qkv_proj", bias=bias)
            for name, out in zip(entries, outs, strict=True)
        ]
    linears.append(LinearShape(last, hidden, heads * wide, split="in", bias=out_bias))
    other = heads if layout.sinks else 0
    if layout.norms and (not layout.norms_if or config.flag(layout.norms_if)):
        normed = 2 * wide if layout.norms == "head" else (heads + kv) * wide
        other += normed * (2 if layout.norm_bias else 1)
    return tuple(linears), 2 * kv * wide, other


def _latent(
    layout: AttentionNames, config: ConfigReader
) -> tuple[tuple[LinearShape, ...], int, int]:
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
        queries = [
            LinearShape(path("q_a_proj"), rank, hidden, split="none", joined=join, bias=bias),
            LinearShape(path("q_b_proj"), query, rank),
        ]
    else:
        rank, join = hidden, ""
        queries = [LinearShape(path("q_proj"), query, hidden)]
    cached, down = latent + rotary, path("kv_a_proj_with_mqa")
    linears = [
        *queries,
        LinearShape(down, cached, hidden, split="none", joined=join, bias=bias),
        LinearShape(path("kv_b_proj"), heads * (plain + value), latent),
        LinearShape(path("o_proj"), hidden, heads * value, split="in", bias=bias),
    ]
    if layout.indexer:
        wide = config.count("index_head_dim")
        linears += _indexer(f"{layout.module}.indexer", config, rank)
        other += 2 * wide  # a norm with a bias over its keys
        cached += wide
    return tuple(linears), cached, other


def _indexer(module: str, config: ConfigReader, rank: int) -> list[LinearShape]:
    """DeepSeek-V3.2's small attention, whose scores pick the tokens for the large one."""
    hidden, wide = config.count("hidden_size"), config.count("index_head_dim")
    heads = config.count("index_n_heads")
    return [
        LinearShape(f"{module}.wq_b", heads * wide, rank, split="none"),
        LinearShape(f"{module}.wk", wide, hidden, split="none"),
        LinearShape(f"{module}.weights_proj", heads, hidden, split="none", unquantized=True),
    ]


def _conv(config: ConfigReader, channels: int) -> tuple[int, int]:
    """Parameters and state of a causal convolution over `channels`."""
    kernel = config.count("ssm_kernel", 4)
    bias = config.flag("ssm_conv_bias", default=True)
    return channels * (kernel + bias), channels * (kernel - 1)


def _mamba(module: str, config: ConfigReader) -> BlockShape:
    """Mamba (arXiv 2312.00752); Jamba norms the output of its x_proj."""
    hidden, state = config.count("hidden_size"), config.count("ssm_state", 16)
    inner = config.count("ssm_inner", int(config.factor("ssm_expand", 2) * hidden))
    rank = ceil(hidden / 16)
    if config.value("ssm_rank")[1] != "auto":
        rank = config.count("ssm_rank", rank)
    bias = config.flag("ssm_bias")
    linears = (
        LinearShape(f"{module}.in_proj", 2 * inner, hidden, "mixer", bias=bias),
        LinearShape(f"{module}.x_proj", rank + 2 * state, inner, "mixer", "in"),
        LinearShape(f"{module}.dt_proj", inner, rank, "mixer", bias=True, unquantized=True),
        LinearShape(f"{module}.out_proj", hidden, inner, "mixer", "in", bias=bias),
    )
    weights, cached = _conv(config, inner)
    normed = rank + 2 * state if config.model_type == "jamba" else 0
    other = weights + normed + inner * (state + 1)  # A_log and D
    return BlockShape("Mamba", linears, CacheShape(state=cached + inner * state), other)


def _mamba2(module: str, config: ConfigReader) -> BlockShape:
    """Mamba-2 (arXiv 2405.21060)."""
    hidden, state = config.count("hidden_size"), config.count("ssm_state")
    heads, groups = config.count("ssm_heads"), config.count("ssm_groups", 1)
    inner = int(config.factor("ssm_expand", 2) * hidden)
    auto = config.value("ssm_head_dim")[1] == "auto"
    wide = inner // heads if auto else config.count("ssm_head_dim", inner // heads)
    inner = config.count("mamba_d_ssm", heads * wide)
    convolved = inner + 2 * groups * state
    bias = config.flag("ssm_bias")
    out_bias = config.flag("projectors_bias") if config.has("projectors_bias") else bias
    linears = (
        LinearShape(f"{module}.in_proj", inner + convolved + heads, hidden, "mixer", bias=bias),
        LinearShape(f"{module}.out_proj", hidden, inner, "mixer", "in", bias=out_bias),
    )
    weights, cached = _conv(config, convolved)
    normed = inner if config.flag("mamba_rms_norm", default=True) else 0
    other = weights + normed + 3 * heads  # A_log, D and dt_bias
    return BlockShape("Mamba-2", linears, CacheShape(state=cached + inner * state), other)


def _delta(module: str, config: ConfigReader, *, four: bool = False) -> BlockShape:
    """Gated delta rule (arXiv 2412.06464) of Qwen3-Next; Qwen3.5 stores its entry in four."""
    hidden = config.count("hidden_size")
    heads, value = config.count("linear_num_value_heads"), config.count("linear_value_head_dim")
    key = config.count("linear_key_head_dim")
    keys, values = config.count("linear_num_key_heads") * key, heads * value
    both, gates = ("qkvz", 2 * keys + 2 * values), ("ba", 2 * heads)
    entries = [(*both, ""), (*gates, "")]
    if four:
        entries = [
            ("qkv", 2 * keys + values, "in_proj_qkvz"), ("z", values, "in_proj_qkvz"),
            ("b", heads, "in_proj_ba"), ("a", heads, "in_proj_ba"),
        ]  # fmt: skip
    linears = [
        LinearShape(
            f"{module}.in_proj_{name}", out, hidden, "mixer", joined=join, unquantized=out < 8
        )
        for name, out, join in entries
    ]
    linears.append(LinearShape(f"{module}.out_proj", hidden, values, "mixer", "in"))
    convolved, kernel = 2 * keys + values, config.count("linear_conv_kernel_dim", 4)
    other = convolved * kernel + 2 * heads + value  # A_log, dt_bias, the norm
    cache = CacheShape(state=convolved * (kernel - 1) + heads * key * value)
    return BlockShape("delta rule", tuple(linears), cache, other)


def _lightning(module: str, config: ConfigReader) -> BlockShape:
    """Lightning attention (MiniMax-01, arXiv 2501.08313)."""
    hidden, wide = config.count("hidden_size"), head_width(config)
    heads = config.count("num_attention_heads")
    inner = heads * wide
    linears = (
        LinearShape(f"{module}.qkv_proj", 3 * inner, hidden, "mixer"),
        LinearShape(f"{module}.output_gate", inner, hidden, "mixer"),
        LinearShape(f"{module}.out_proj", hidden, inner, "mixer", "in"),
    )
    return BlockShape("linear attention", linears, CacheShape(state=inner * wide), inner)


def _convolution(module: str, config: ConfigReader) -> BlockShape:
    """The short gated convolution of LFM2."""
    hidden, kernel = config.count("hidden_size"), config.count("conv_L_cache", 3)
    bias = config.flag("conv_bias")
    linears = (
        LinearShape(f"{module}.in_proj", 3 * hidden, hidden, "mixer", bias=bias),
        LinearShape(f"{module}.out_proj", hidden, hidden, "mixer", "in", bias=bias),
    )
    cache = CacheShape(state=hidden * (kernel - 1))
    return BlockShape("convolution", linears, cache, hidden * (kernel + bias))


MIXERS: dict[str, Callable[[str, ConfigReader], BlockShape]] = {
    "mamba": _mamba,
    "mamba2": _mamba2,
    "delta": _delta,
    "delta in four": lambda module, config: _delta(module, config, four=True),
    "lightning": _lightning,
    "convolution": _convolution,
    # of an unknown family: only that there is one
    "unknown": lambda module, config: BlockShape("linear attention", (), CacheShape()),
}


def mlp_linears(
    layout: MlpNames,
    config: ConfigReader,
    inner: int,
    part: Part = "mlp",
    copies: int = 1,
    active: int = 1,
) -> tuple[LinearShape, ...]:
    """An MLP of `inner` channels: gate and up cut by their outputs, down by its inputs."""
    hidden, bias = config.count("hidden_size"), is_true(layout.bias, config)
    *entries, last = (f"{layout.module}.{name}" if layout.module else name for name in layout.names)
    fused = layout.gated and len(entries) == 1
    out, joined = inner * (2 if fused else 1), "gate_up_proj" if len(entries) == 2 else ""
    linears = [
        LinearShape(name, out, hidden, part, "out", joined, bias, copies, active)
        for name in entries
    ]
    linears.append(LinearShape(last, hidden, inner, part, "in", "", bias, copies, active))
    return tuple(linears)


def dense_block(layout: MlpNames, times: int, config: ConfigReader) -> BlockShape:
    """An MLP that every token passes; `times` hidden widths wide where the config has no width."""
    default = times * config.count("hidden_size") or None
    key = "intermediate_size_mlp" if config.has("intermediate_size_mlp") else "intermediate_size"
    return BlockShape("", mlp_linears(layout, config, config.count(key, default)), CacheShape())


def experts_block(layout: ExpertNames, config: ConfigReader) -> BlockShape:
    """A mixture of experts with its router and its shared expert."""
    hidden, inner = config.count("hidden_size"), config.count(layout.inner)
    many, chosen = (
        config.count("num_experts", least=0),
        config.count("num_experts_per_tok", least=0),
    )
    if chosen > many:
        config.refuse("num_experts_per_tok", f"a number up to the {many} experts", chosen)
    linears: list[LinearShape] = []
    if many:
        bias = is_true(layout.router_bias, config)
        linears = [
            LinearShape(layout.router, many, hidden, "router", "none", bias=bias, unquantized=True),
            *mlp_linears(layout.mlp, config, inner, "experts", many, chosen),
        ]
    if layout.shared:
        shared = config.count("n_shared_experts", 1, least=0)
        wide = config.count(layout.shared_inner, least=0) if layout.shared_inner else inner * shared
        linears += mlp_linears(layout.shared, config, wide, "shared experts") if wide else ()
    if layout.shared_gate:
        linears.append(
            LinearShape(layout.shared_gate, 1, hidden, "router", "none", unquantized=True)
        )
    kind = "experts" if many else ""
    return BlockShape(kind, tuple(linears), CacheShape(), many if layout.correction else 0)
