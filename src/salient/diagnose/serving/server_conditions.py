"""Conditions of rules about the server: memory, length of a context, batches, access, logs.

`salient plan` counts the memory of the weights.
"""

from typing import Any

from salient.core.model_files import as_object

from .rule_context import Condition, RuleContext

LONG_CONTEXT = 131072
_SMALL_MEMORY = 48  # GiB, of a GPU that a long context can fill
_FULL_USE = 0.95  # of the memory, which leaves little for what a long prompt needs besides
_DEFAULT_USE = 0.92  # of the GPU's memory (vllm/config/cache.py)
_LINK = 32  # GB/s, PCIe 4.0 x16 at best
_USE = "gpu_memory_utilization"
_OPEN = ("0.0.0.0", "::", "[::]", "*")
# an API key of the server, by its argument or variable
_KEYS = ("api_key", "VLLM_API_KEY")
_QUIET = ("WARNING", "ERROR", "CRITICAL")


def _percent(context: RuleContext) -> str:
    """The fraction that a number of percent would be."""
    use = context.number(_USE)
    return str(use / 100) if use is not None and 1 < use <= 100 else ""


def _out_of_range(context: RuleContext) -> bool:
    use = context.number(_USE)
    return use is not None and not 0 < use <= 1 and not _percent(context)


def _between(context: RuleContext, low: float, high: float) -> bool:
    use = context.number(_USE)
    return use is not None and low < use <= high and not context.is_set("kv_cache_memory_bytes")


def _config_length(context: RuleContext) -> int:
    """The config's context length; 0 where it is absent or scaled (RoPE)."""
    if context.config_has("rope_scaling") or context.is_set("hf_overrides"):
        return 0
    lengths = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
    return context.config_size(*lengths)


def _too_long(context: RuleContext) -> str:
    length, limit = context.number("max_model_len"), _config_length(context)
    beyond = length is not None and limit and length > limit
    return str(limit) if beyond and not context.on("VLLM_ALLOW_LONG_MAX_MODEL_LEN") else ""


def _context_length(context: RuleContext) -> int:
    """Tokens of a request: by the settings, else the config; 0 where not known."""
    length = context.number("max_model_len")
    if length is not None and 0 < length < 2**40:
        return int(length)
    return 0 if context.is_set("max_model_len") else _config_length(context)


def cache_bytes(context: RuleContext) -> int:
    """Bytes of the KV cache of one request of full length on each GPU; 0 where not known.

    Keys and values of every layer: 2 * layers * kv_heads * head_dim * bytes * tokens, for models
    whose layers all attend to all tokens.
    """
    if context.config_has("kv_lora_rank", "layer_types", "sliding_window", "layers_block_type"):
        return 0
    heads = context.config_size("num_attention_heads")
    kv_heads = context.config_size("num_key_value_heads") or heads
    width = 1 if context.text("kv_cache_dtype").startswith(("fp8", "int8")) else 2
    ranks = max(min(context.size("tensor_parallel_size"), kv_heads), 1)
    stages = max(context.size("pipeline_parallel_size"), 1)
    per_token = 2 * context.config_size("num_hidden_layers") * kv_heads * context.head_dim * width
    return per_token * _context_length(context) // ranks // stages


def _no_room(context: RuleContext) -> str:
    """GiB of the cache of one full request, where it alone is more than the GPU's memory."""
    if not context.gpu or context.vendor == "cpu" or context.number("max_model_len") == -1:
        return ""
    use = context.number(_USE, _DEFAULT_USE) or _DEFAULT_USE
    need = cache_bytes(context) / 2**30
    return f"{need:.1f}" if need > context.gpu.memory * use else ""


def _long(context: RuleContext) -> str:
    """Tokens of a context that hardly fits a small GPU."""
    gpu = context.gpu
    small = gpu is not None and context.vendor != "cpu" and gpu.memory <= _SMALL_MEMORY
    tokens = _context_length(context)
    return f"{tokens:,}" if small and tokens >= LONG_CONTEXT and not _no_room(context) else ""


def _offloaded(context: RuleContext) -> str:
    """How much slower the offloaded part is read than the GPU's own memory."""
    if (context.number("cpu_offload_gb") or 0) <= 0:
        return ""
    bandwidth = context.gpu.bandwidth if context.gpu else 0
    return f"{bandwidth / _LINK:.0f}x slower" if bandwidth > _LINK else "10 to 100x slower"


def _fp8_cache(context: RuleContext) -> bool:
    fp8 = context.text("kv_cache_dtype").startswith("fp8")
    return fp8 and context.vendor == "nvidia" and 0 < context.capability < 89


def _has_key(context: RuleContext) -> bool:
    return any(context.is_set(key) or context.variable(key) for key in _KEYS)


def _open(context: RuleContext) -> bool:
    return context.is_server and context.text("host") in _OPEN and not _has_key(context)


def _open_by_default(context: RuleContext) -> bool:
    listens = not context.is_set("host") and not context.is_set("uds")
    return context.is_server and listens and not _has_key(context)


def _few_sequences(context: RuleContext) -> str:
    count = context.number("max_num_seqs")
    return f"{count:g}" if count is not None and 0 < count <= 4 else ""


def _short_prefill(context: RuleContext) -> bool:
    """Batches that must hold a whole prompt, and are smaller than one may be."""
    batch, length = context.number("max_num_batched_tokens"), context.number("max_model_len")
    off = context.flag("enable_chunked_prefill") is False
    return off and batch is not None and length is not None and 0 < batch < length


def _small_chunks(context: RuleContext) -> bool:
    batch = context.number("max_num_batched_tokens")
    return batch is not None and 0 < batch < 512 and not _short_prefill(context)


def _eager(context: RuleContext) -> bool:
    return context.flag("enforce_eager") is True and context.vendor != "cpu"


def _uncompiled(context: RuleContext) -> bool:
    config = context.value("compilation_config")
    modes = as_object(config)
    mode: Any = modes.get("mode", modes.get("level")) if modes else config
    off = isinstance(mode, int) and not isinstance(mode, bool) and mode == 0
    level = context.value("optimization_level")
    return (off or level in ("0", 0)) and not _eager(context) and context.vendor != "cpu"


CONDITIONS: dict[str, Condition] = {
    "memory-in-percent": _percent,
    "memory-out-of-range": _out_of_range,
    "memory-too-high": lambda c: _between(c, 0.97, 1),
    "memory-low": lambda c: _between(c, 0, 0.4999) and c.vendor != "cpu",
    "memory-ignored": lambda c: c.is_set("kv_cache_memory_bytes") and c.is_set(_USE),
    "context-too-long": _too_long,
    "context-beyond-model": lambda c: (
        c.on("VLLM_ALLOW_LONG_MAX_MODEL_LEN") and c.number("max_model_len") != -1
    ),
    "context-fills-memory": lambda c: (
        c.number("max_model_len") == -1 and (c.number(_USE) or 0) >= _FULL_USE
    ),
    "context-no-room": _no_room,
    "context-long": _long,
    "weights-offloaded": _offloaded,
    "swap-space": lambda c: c.version is not None and (c.number("swap_space") or 0) > 0,
    "fp8-cache-on-old-gpu": _fp8_cache,
    "few-sequences": _few_sequences,
    "prompt-too-long-for-batch": _short_prefill,
    "small-batches": _small_chunks,
    "chunked-prefill-off": lambda c: (
        c.flag("enable_chunked_prefill") is False and not _short_prefill(c)
    ),
    "prefix-caching-off": lambda c: c.flag("enable_prefix_caching") is False,
    "radix-cache-off": lambda c: c.flag("disable_radix_cache") is True,
    "eager": _eager,
    "not-compiled": _uncompiled,
    "compiled-awq": lambda c: c.awq and c.flag("enable_torch_compile") is True,
    "launch-blocking": lambda c: c.on("CUDA_LAUNCH_BLOCKING"),
    "stats-off": lambda c: c.flag("disable_log_stats") is True and c.is_server,
    "log-too-quiet": lambda c: c.variable("VLLM_LOGGING_LEVEL").upper() in _QUIET,
    "remote-code": lambda c: c.flag("trust_remote_code") is True,
    "open-to-network": _open,
    "open-by-default": _open_by_default,
    "secret-in-settings": lambda c: c.is_set("api_key"),
    "key-set": lambda c: c.is_server and _has_key(c),
}
