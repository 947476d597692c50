"""What stands in attention's place: state spaces, delta rules, convolutions. Imports no torch.

Their states are counted as vLLM keeps them (vllm/model_executor/layers/mamba/mamba_utils.py, 0.32):
the last kernel - 1 inputs of the convolution, and the state itself.
"""

from collections.abc import Callable
from math import ceil

from .attention import head_width
from .config_reader import ConfigReader
from .model_shape import BlockShape, CacheShape, LinearShape


def _conv(says: ConfigReader, channels: int) -> tuple[int, int]:
    """Parameters and state of a causal convolution over `channels`."""
    kernel = says.count("ssm_kernel", 4)
    bias = says.flag("ssm_conv_bias", default=True)
    return channels * (kernel + bias), channels * (kernel - 1)


def _mamba(module: str, says: ConfigReader) -> BlockShape:
    """Mamba (arXiv 2312.00752); Jamba norms what its x_proj gives."""
    hidden, state = says.count("hidden_size"), says.count("ssm_state", 16)
    inner = says.count("ssm_inner", int(says.factor("ssm_expand", 2) * hidden))
    rank = ceil(hidden / 16)
    if says.value("ssm_rank")[1] != "auto":
        rank = says.count("ssm_rank", rank)
    bias = says.flag("ssm_bias")
    linears = (
        LinearShape(f"{module}.in_proj", 2 * inner, hidden, "mixer", bias=bias),
        LinearShape(f"{module}.x_proj", rank + 2 * state, inner, "mixer", "in"),
        LinearShape(f"{module}.dt_proj", inner, rank, "mixer", bias=True, unquantized=True),
        LinearShape(f"{module}.out_proj", hidden, inner, "mixer", "in", bias=bias),
    )
    weights, kept = _conv(says, inner)
    normed = rank + 2 * state if says.model_type == "jamba" else 0
    other = weights + normed + inner * (state + 1)  # A_log and D
    return BlockShape("Mamba", linears, CacheShape(state=kept + inner * state), other)


def _mamba2(module: str, says: ConfigReader) -> BlockShape:
    """Mamba-2 (arXiv 2405.21060)."""
    hidden, state = says.count("hidden_size"), says.count("ssm_state")
    heads, groups = says.count("ssm_heads"), says.count("ssm_groups", 1)
    inner = int(says.factor("ssm_expand", 2) * hidden)
    auto = says.value("ssm_head_dim")[1] == "auto"
    wide = inner // heads if auto else says.count("ssm_head_dim", inner // heads)
    inner = says.count("mamba_d_ssm", heads * wide)
    convolved = inner + 2 * groups * state
    bias = says.flag("ssm_bias")
    out_bias = says.flag("projectors_bias") if says.has("projectors_bias") else bias
    linears = (
        LinearShape(f"{module}.in_proj", inner + convolved + heads, hidden, "mixer", bias=bias),
        LinearShape(f"{module}.out_proj", hidden, inner, "mixer", "in", bias=out_bias),
    )
    weights, kept = _conv(says, convolved)
    normed = inner if says.flag("mamba_rms_norm", default=True) else 0
    other = weights + normed + 3 * heads  # A_log, D and dt_bias
    return BlockShape("Mamba-2", linears, CacheShape(state=kept + inner * state), other)


def _delta(module: str, says: ConfigReader, *, four: bool = False) -> BlockShape:
    """Gated delta rule (arXiv 2412.06464) of Qwen3-Next; Qwen3.5 stores its entry in four."""
    hidden = says.count("hidden_size")
    heads, value = says.count("linear_num_value_heads"), says.count("linear_value_head_dim")
    key = says.count("linear_key_head_dim")
    keys, values = says.count("linear_num_key_heads") * key, heads * value
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
    convolved, kernel = 2 * keys + values, says.count("linear_conv_kernel_dim", 4)
    other = convolved * kernel + 2 * heads + value  # A_log, dt_bias, the norm
    cache = CacheShape(state=convolved * (kernel - 1) + heads * key * value)
    return BlockShape("delta rule", tuple(linears), cache, other)


def _lightning(module: str, says: ConfigReader) -> BlockShape:
    """Lightning attention (MiniMax-01, arXiv 2501.08313)."""
    hidden, wide = says.count("hidden_size"), head_width(says)
    heads = says.count("num_attention_heads")
    inner = heads * wide
    linears = (
        LinearShape(f"{module}.qkv_proj", 3 * inner, hidden, "mixer"),
        LinearShape(f"{module}.output_gate", inner, hidden, "mixer"),
        LinearShape(f"{module}.out_proj", hidden, inner, "mixer", "in"),
    )
    return BlockShape("linear attention", linears, CacheShape(state=inner * wide), inner)


def _convolution(module: str, says: ConfigReader) -> BlockShape:
    """The short gated convolution of LFM2."""
    hidden, kernel = says.count("hidden_size"), says.count("conv_L_cache", 3)
    bias = says.flag("conv_bias")
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
    "delta in four": lambda module, says: _delta(module, says, four=True),
    "lightning": _lightning,
    "convolution": _convolution,
    # of an unknown family nothing is known but that it is there
    "unknown": lambda *_: BlockShape("linear attention", (), CacheShape()),
}
