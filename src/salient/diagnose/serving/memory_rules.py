"""Rules about memory: the GPU's, and the length of a context.

Facts are vLLM 0.32's, by file name. `salient plan` counts the memory of the weights.
"""

from .rule_context import RuleContext, ServingRule

LONG_CONTEXT = 131072
_SMALL_MEMORY = 48  # GiB, of a GPU that a long context can fill
_DEFAULT_USE = 0.92  # of the GPU's memory (vllm/config/cache.py)
_LINK = 32  # GB/s, PCIe 4.0 x16 at best
_USE = "gpu_memory_utilization"


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


RULES = (
    ServingRule(
        "memory-in-percent",
        "error",
        "gpu_memory_utilization is a fraction of 1, not percent",
        _percent,
        why="vLLM takes a number above 0 and at most 1.",
        change={_USE: "{value}"},
    ),
    ServingRule(
        "memory-out-of-range",
        "error",
        "gpu_memory_utilization must be above 0 and at most 1",
        _out_of_range,
        change={_USE: "0.92"},
    ),
    ServingRule(
        "memory-too-high",
        "warning",
        "gpu_memory_utilization leaves next to nothing for CUDA graphs and other processes",
        lambda c: _between(c, 0.97, 1),
        why="Out of memory at the start, or later under load, when a driver or another process "
        "takes the rest.",
        change={_USE: "0.92"},
        certainty="likely",
    ),
    ServingRule(
        "memory-low",
        "warning",
        "Less than half of the GPU's memory is used",
        lambda c: _between(c, 0, 0.4999) and c.vendor != "cpu",
        why="The rest after the weights is KV cache, and the cache limits the number of running "
        "requests. Right only where another process shares the GPU.",
        change={_USE: "0.92"},
        certainty="possible",
    ),
    ServingRule(
        "memory-ignored",
        "note",
        "kv_cache_memory_bytes is set, so gpu_memory_utilization is ignored",
        lambda c: c.is_set("kv_cache_memory_bytes") and c.is_set(_USE),
        keys=("kv_cache_memory_bytes", _USE),
        change={_USE: None},
    ),
    ServingRule(
        "context-too-long",
        "error",
        "max_model_len is more than the model's own {value} tokens",
        _too_long,
        why="vLLM refuses it; beyond that length RoPE positions give wrong numbers.",
        change={"max_model_len": "{value}"},
        do=("for a longer context set the RoPE scaling of the model's card (hf_overrides)",),
    ),
    ServingRule(
        "context-beyond-model",
        "warning",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN lets requests exceed the model's own length",
        lambda c: c.on("VLLM_ALLOW_LONG_MAX_MODEL_LEN"),
        why="Beyond that length answers turn to nonsense or NaN (vllm/config/model.py).",
        change={"VLLM_ALLOW_LONG_MAX_MODEL_LEN": None},
        certainty="likely",
    ),
    ServingRule(
        "context-no-room",
        "error",
        "One request of full length needs {value} GiB of KV cache, more than the GPU has",
        _no_room,
        why="vLLM stops: the cache that is needed is larger than the memory available for it.",
        change={"max_model_len": "32768"},
        do=("or auto: the longest that fits; or divide it with tensor_parallel_size",),
        certainty="likely",
    ),
    ServingRule(
        "context-long",
        "warning",
        "A context of {value} tokens on a GPU of this size leaves room for few requests, or none",
        _long,
        why="vLLM starts only if the cache holds one request of full length.",
        change={"max_model_len": "32768"},
        do=("or as long as your longest prompt and answer together",),
        certainty="likely",
    ),
    ServingRule(
        "weights-offloaded",
        "slow",
        "A part of the weights stays in main memory",
        _offloaded,
        why="Each step reads that part over PCIe: {value} than the GPU's own memory.",
        change={"cpu_offload_gb": None},
        do=("less weight per GPU: 4 bits, or tensor_parallel_size",),
    ),
    ServingRule(
        "swap-space",
        "note",
        "swap_space keeps preempted requests in main memory",
        lambda c: c.version is not None and (c.number("swap_space") or 0) > 0,
        why="Only releases before V1 use it, and swapping is slow; it is gone since 0.18.",
        change={"swap_space": None},
        until=(0, 18),
    ),
    ServingRule(
        "fp8-cache-on-old-gpu",
        "warning",
        "This GPU has no FP8; an FP8 cache needs compute capability 8.9",
        _fp8_cache,
        why="vLLM's Triton attention refuses it (triton_attn.py); where FlashInfer takes it, each "
        "value is converted when it is read.",
        change={"kv_cache_dtype": "auto"},
        certainty="likely",
    ),
)
