"""Rules about memory: what the GPU holds, and how long a context may be.

Facts are vLLM 0.32's, by file name. Left out: what the weights take; `salient plan` counts that.
"""

from .rule_context import RuleContext, ServingRule

LONG_CONTEXT = 131072
_SMALL_MEMORY = 48  # GiB, of a GPU that a long context can fill
_DEFAULT_USE = 0.92  # of the GPU's memory (vllm/config/cache.py)
_GIB = 2**30


def _percent(case: RuleContext) -> str:
    """The fraction that a number of percent would be."""
    held = case.number("gpu_memory_utilization")
    return str(held / 100) if held is not None and 1 < held <= 100 else ""


def _out_of_range(case: RuleContext) -> bool:
    held = case.number("gpu_memory_utilization")
    return held is not None and not 0 < held <= 1 and not _percent(case)


def _between(case: RuleContext, low: float, high: float) -> bool:
    held = case.number("gpu_memory_utilization")
    return held is not None and low < held <= high and not case.given("kv_cache_memory_bytes")


def _config_context(case: RuleContext) -> int:
    """Tokens that the config says; 0 where it does not, or scales them (RoPE)."""
    if case.holds("rope_scaling") or case.given("hf_overrides"):
        return 0
    return case.counts("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def _too_long(case: RuleContext) -> str:
    held, made_for = case.number("max_model_len"), _config_context(case)
    beyond = held is not None and made_for and held > made_for
    return str(made_for) if beyond and not case.on("VLLM_ALLOW_LONG_MAX_MODEL_LEN") else ""


def _context(case: RuleContext) -> int:
    """Tokens that a request may have: as asked, or the config's own; 0 where not known."""
    held = case.number("max_model_len")
    if held is not None and 0 < held < 2**40:
        return int(held)
    return 0 if case.given("max_model_len") else _config_context(case)


def cache_bytes(case: RuleContext) -> int:
    """Bytes of the cache that one request of full length takes on each GPU; 0 where not known.

    Keys and values of every layer: 2 * layers * kv_heads * head_dim * bytes * tokens, for models
    whose layers all attend to all tokens.
    """
    if case.holds("kv_lora_rank", "layer_types", "sliding_window", "layers_block_type"):
        return 0
    layers, heads = case.counts("num_hidden_layers"), case.counts("num_attention_heads")
    kv_heads = case.counts("num_key_value_heads") or heads
    head_dim = case.counts("head_dim") or (case.counts("hidden_size") // heads if heads else 0)
    width = 1 if case.text("kv_cache_dtype").startswith(("fp8", "int8")) else 2
    parts = max(min(case.size("tensor_parallel_size"), kv_heads), 1)
    stages = max(case.size("pipeline_parallel_size"), 1)
    return 2 * layers * kv_heads * head_dim * width * _context(case) // parts // stages


def _no_room(case: RuleContext) -> str:
    """The cache of one full request in GiB, where it alone is more than the GPU has."""
    if not case.gpu or case.vendor == "cpu" or case.number("max_model_len") == -1:
        return ""
    use = case.number("gpu_memory_utilization", _DEFAULT_USE) or _DEFAULT_USE
    need = cache_bytes(case) / _GIB
    return f"{need:.1f}" if need > case.gpu.memory * use else ""


def _long(case: RuleContext) -> str:
    """Tokens of a context that a small GPU will hardly hold."""
    small = case.gpu is not None and case.vendor != "cpu" and case.gpu.memory <= _SMALL_MEMORY
    tokens = _context(case)
    return f"{tokens:,}" if small and tokens >= LONG_CONTEXT and not _no_room(case) else ""


def _offloaded(case: RuleContext) -> str:
    """How much slower the offloaded part is read than the GPU's own memory."""
    held = case.number("cpu_offload_gb")
    if held is None or held <= 0:
        return ""
    bandwidth = case.gpu.bandwidth if case.gpu else 0
    link = 32  # GB/s, PCIe 4.0 x16 at best
    return f"{bandwidth / link:.0f}x slower" if bandwidth > link else "10 to 100x slower"


def _fp8_cache(case: RuleContext) -> bool:
    fp8 = case.text("kv_cache_dtype").startswith("fp8")
    return fp8 and case.vendor == "nvidia" and 0 < case.capability < 89


RULES = (
    ServingRule(
        "memory-in-percent",
        "error",
        "gpu_memory_utilization is a fraction of 1, not percent",
        ("gpu_memory_utilization",),
        _percent,
        matters="vLLM takes a number above 0 and at most 1.",
        change=(("gpu_memory_utilization", "{0}"),),
    ),
    ServingRule(
        "memory-out-of-range",
        "error",
        "gpu_memory_utilization must be above 0 and at most 1",
        ("gpu_memory_utilization",),
        _out_of_range,
        change=(("gpu_memory_utilization", "0.92"),),
    ),
    ServingRule(
        "memory-too-high",
        "warning",
        "gpu_memory_utilization leaves next to nothing for CUDA graphs and other processes",
        ("gpu_memory_utilization",),
        lambda case: _between(case, 0.97, 1),
        "likely",
        "Out of memory at the start, or later under load, when a driver or another process takes "
        "the rest.",
        change=(("gpu_memory_utilization", "0.92"),),
    ),
    ServingRule(
        "memory-low",
        "warning",
        "Less than half of the GPU's memory is used",
        ("gpu_memory_utilization",),
        lambda case: _between(case, 0, 0.4999) and case.vendor != "cpu",
        "possible",
        "What is left after the weights is KV cache, and the cache bounds how many requests run "
        "together. Right only where another process shares the GPU.",
        change=(("gpu_memory_utilization", "0.92"),),
    ),
    ServingRule(
        "memory-ignored",
        "note",
        "kv_cache_memory_bytes is set, so gpu_memory_utilization is not looked at",
        ("kv_cache_memory_bytes", "gpu_memory_utilization"),
        lambda case: case.given("kv_cache_memory_bytes") and case.given("gpu_memory_utilization"),
        change=(("gpu_memory_utilization", None),),
    ),
    ServingRule(
        "context-too-long",
        "error",
        "max_model_len is more than the {0} tokens that the model was made for",
        ("max_model_len",),
        _too_long,
        matters="vLLM refuses it; beyond that length RoPE positions give wrong numbers.",
        change=(("max_model_len", "{0}"),),
        do=(
            "for a longer context set the RoPE scaling that the model's card names (hf_overrides)",
        ),
    ),
    ServingRule(
        "context-beyond-model",
        "warning",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN lets requests pass the model's own length",
        ("VLLM_ALLOW_LONG_MAX_MODEL_LEN",),
        lambda case: case.on("VLLM_ALLOW_LONG_MAX_MODEL_LEN"),
        "likely",
        "Past that length answers turn to nonsense or NaN (vllm/config/model.py).",
        change=(("VLLM_ALLOW_LONG_MAX_MODEL_LEN", None),),
    ),
    ServingRule(
        "context-no-room",
        "error",
        "One request of full length needs {0} GiB of KV cache, more than the GPU has",
        ("max_model_len",),
        _no_room,
        "likely",
        "vLLM stops: the cache that is needed is larger than the memory available for it.",
        change=(("max_model_len", "32768"),),
        do=("or auto: the longest that fits; or divide it with tensor_parallel_size",),
    ),
    ServingRule(
        "context-long",
        "warning",
        "A context of {0} tokens on a GPU of this size leaves room for few requests, or none",
        ("max_model_len",),
        _long,
        "likely",
        "vLLM starts only if the cache holds one request of full length.",
        change=(("max_model_len", "32768"),),
        do=("or as long as your longest prompt and answer together",),
    ),
    ServingRule(
        "weights-offloaded",
        "slow",
        "A part of the weights stays in main memory",
        ("cpu_offload_gb",),
        _offloaded,
        matters="Each step reads that part over PCIe: {0} than the GPU's own memory.",
        change=(("cpu_offload_gb", None),),
        do=("a smaller group of GPUs' worth of weights: 4 bits, or tensor_parallel_size",),
    ),
    ServingRule(
        "swap-space",
        "note",
        "swap_space keeps preempted requests in main memory",
        ("swap_space",),
        lambda case: case.version is not None and (case.number("swap_space") or 0) > 0,
        matters="Only releases before V1 use it, and swapping is slow; it is gone since 0.18.",
        change=(("swap_space", None),),
        until=(0, 18),
    ),
    ServingRule(
        "fp8-cache-on-old-gpu",
        "warning",
        "This GPU has no FP8; an FP8 cache needs compute capability 8.9",
        ("kv_cache_dtype",),
        _fp8_cache,
        "likely",
        "vLLM's Triton attention refuses it (triton_attn.py); where FlashInfer takes it, each "
        "value is converted when it is read.",
        change=(("kv_cache_dtype", "auto"),),
    ),
)
