"""The mixers of a block from a config: what replaces attention. Imports no torch.

A state space, a delta rule, a convolution. Its state is counted as vLLM stores it
(vllm/model_executor/layers/mamba/mamba_utils.py, 0.32): the last kernel - 1 inputs of the
convolution, and the state itself.
"""

from collections.abc import Callable
from math import ceil

from .attention import head_width
from .config_reader import ConfigReader
from .model_shape import BlockShape, CacheShape, LinearShape


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


def _delta(module: str, config: ConfigReader, parts: int = 2) -> BlockShape:
    """Gated delta rule (arXiv 2412.06464) of Qwen3-Next; Qwen3.5 stores its entry in four parts,
    OLMo in six."""
    hidden = config.count("hidden_size")
    heads, value = config.count("linear_num_value_heads"), config.count("linear_value_head_dim")
    key = config.count("linear_key_head_dim")
    keys, values = config.count("linear_num_key_heads") * key, heads * value
    both, gates, last = "in_proj_qkvz", "in_proj_ba", "out_proj"
    entries = [(both, 2 * keys + 2 * values, ""), (gates, 2 * heads, "")]
    if parts == 4:
        entries = [
            ("in_proj_qkv", 2 * keys + values, both), ("in_proj_z", values, both),
            ("in_proj_b", heads, gates), ("in_proj_a", heads, gates),
        ]  # fmt: skip
    elif parts == 6:
        wide = {"q": keys, "k": keys, "v": values, "g": values, "b": heads, "a": heads}
        entries, last = [(f"{name}_proj", out, "") for name, out in wide.items()], "o_proj"
    linears = [
        LinearShape(f"{module}.{name}", out, hidden, "mixer", joined=join, unquantized=out < 8)
        for name, out, join in entries
    ]
    linears.append(LinearShape(f"{module}.{last}", hidden, values, "mixer", "in"))
    convolved, kernel = 2 * keys + values, config.count("linear_conv_kernel_dim", 4)
    other = convolved * kernel + 2 * heads + value  # A_log, dt_bias, the norm
    cache = CacheShape(state=convolved * (kernel - 1) + heads * key * value)
    return BlockShape("delta rule", tuple(linears), cache, other)


def _kimi_delta(module: str, config: ConfigReader) -> BlockShape:
    """Kimi's delta attention (arXiv 2510.26692): a delta rule whose gates are of a low rank."""
    hidden = config.count("hidden_size")
    heads, wide = config.count("linear_num_heads"), config.count("linear_head_dim")
    inner, kernel = heads * wide, config.count("linear_conv_kernel_dim", 4)

    def low(name: str) -> list[LinearShape]:
        return [
            LinearShape(f"{module}.{name}_a_proj", wide, hidden, "mixer", "none"),
            LinearShape(f"{module}.{name}_b_proj", inner, wide, "mixer"),
        ]

    def whole(name: str) -> list[LinearShape]:
        return [LinearShape(f"{module}.{name}_proj", inner, hidden, "mixer")]

    linears = [
        *(
            LinearShape(f"{module}.{name}_proj", inner, hidden, "mixer", joined="qkv_proj")
            for name in "qkv"
        ),
        *(whole("f") if config.flag("linear_full_rank_forget") else low("f")),
        LinearShape(f"{module}.b_proj", heads, hidden, "mixer", unquantized=heads < 8),
        *(whole("g") if config.flag("linear_full_rank_gate") else low("g")),
        LinearShape(f"{module}.o_proj", hidden, inner, "mixer", "in"),
    ]
    other = 3 * inner * kernel + inner + heads + wide  # dt_bias, A_log, the norm
    cache = CacheShape(state=3 * inner * (kernel - 1) + inner * wide)
    return BlockShape("delta attention", tuple(linears), cache, other)


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
    "delta in four": lambda module, config: _delta(module, config, parts=4),
    "kimi delta": _kimi_delta,
    "delta apart": lambda module, config: _delta(module, config, parts=6),
    "lightning": _lightning,
    "convolution": _convolution,
    # of an unknown family: only that there is one
    "unknown": lambda module, config: BlockShape("linear attention", (), CacheShape()),
}
