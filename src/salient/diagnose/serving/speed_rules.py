"""Rules about batches, compilation, and what the log tells of speed. Facts are vLLM 0.32's."""

from .rule_context import RuleContext, ServingRule

_BOTH = ("vllm", "sglang")


def _few_sequences(case: RuleContext) -> str:
    held = case.number("max_num_seqs")
    return f"{held:g}" if held is not None and 0 < held <= 4 else ""


def _short_prefill(case: RuleContext) -> bool:
    """Chunks that must hold a whole prompt, and are smaller than one may be."""
    chunks, context = case.number("max_num_batched_tokens"), case.number("max_model_len")
    off = case.flag("enable_chunked_prefill") is False
    return off and chunks is not None and context is not None and 0 < chunks < context


def _small_chunks(case: RuleContext) -> bool:
    held = case.number("max_num_batched_tokens")
    return held is not None and 0 < held < 512 and not _short_prefill(case)


def _eager(case: RuleContext) -> bool:
    return case.flag("enforce_eager") is True and case.vendor != "cpu"


def _uncompiled(case: RuleContext) -> bool:
    held = case.value("compilation_config")
    mode = held.get("mode", held.get("level")) if isinstance(held, dict) else held
    none = isinstance(mode, int) and mode == 0 and not isinstance(mode, bool)
    level = case.value("optimization_level")
    return (none or level in ("0", 0)) and not _eager(case) and case.vendor != "cpu"


RULES = (
    ServingRule(
        "few-sequences",
        "slow",
        "At most {0} requests run together",
        ("max_num_seqs",),
        _few_sequences,
        "likely",
        "A step reads all weights once, for however many requests: the others wait in line while "
        "the GPU could answer many at nearly the same cost. vLLM's default is 128 to 1024.",
        change=(("max_num_seqs", None),),
        engines=_BOTH,
    ),
    ServingRule(
        "prompt-too-long-for-batch",
        "error",
        "max_num_batched_tokens is less than max_model_len, and chunked prefill is off",
        ("max_num_batched_tokens", "max_model_len", "enable_chunked_prefill"),
        _short_prefill,
        matters="vLLM refuses it: a prompt must fit one batch (vllm/config/scheduler.py).",
        change=(("enable_chunked_prefill", None),),
    ),
    ServingRule(
        "small-batches",
        "slow",
        "Prompts are read in very small chunks",
        ("max_num_batched_tokens",),
        _small_chunks,
        "likely",
        "Each chunk reads all weights again. vLLM's default for a server is 2048 to 16384 tokens.",
        change=(("max_num_batched_tokens", None),),
    ),
    ServingRule(
        "chunked-prefill-off",
        "warning",
        "Chunked prefill is off",
        ("enable_chunked_prefill",),
        lambda case: case.flag("enable_chunked_prefill") is False and not _short_prefill(case),
        "possible",
        "A long prompt then holds up every answer that is being written.",
        change=(("enable_chunked_prefill", None),),
    ),
    ServingRule(
        "prefix-caching-off",
        "warning",
        "Prefix caching is off",
        ("enable_prefix_caching",),
        lambda case: case.flag("enable_prefix_caching") is False,
        "possible",
        "Prompts that begin alike (a system prompt, a chat's history) are computed anew each time.",
        change=(("enable_prefix_caching", None),),
    ),
    ServingRule(
        "prefix-caching-off",
        "warning",
        "The radix cache of common beginnings is off",
        ("disable_radix_cache",),
        lambda case: case.flag("disable_radix_cache") is True,
        "possible",
        "Prompts that begin alike (a system prompt, a chat's history) are computed anew each time.",
        change=(("disable_radix_cache", None),),
        engines=("sglang",),
    ),
    ServingRule(
        "eager",
        "slow",
        "CUDA graphs and compilation are off",
        ("enforce_eager",),
        _eager,
        "likely",
        "Each step then starts hundreds of small kernels one by one. A 7B model decoded 1.7x "
        "slower on an A800 (vllm-omni issue 7960); 4-bit and small models lose most.",
        change=(("enforce_eager", None),),
        rank=20,
        engines=_BOTH,
    ),
    ServingRule(
        "not-compiled",
        "slow",
        "The model is not compiled",
        ("optimization_level", "compilation_config"),
        _uncompiled,
        "likely",
        "Level 0 starts fast and runs slower: no fused kernels. The default is 2.",
        change=(("optimization_level", None), ("compilation_config", None)),
    ),
    ServingRule(
        "launch-blocking",
        "slow",
        "CUDA_LAUNCH_BLOCKING waits for every kernel",
        ("CUDA_LAUNCH_BLOCKING",),
        lambda case: case.on("CUDA_LAUNCH_BLOCKING"),
        matters="It is for finding errors. The CPU can prepare nothing ahead, and CUDA graphs may "
        "fail to be captured.",
        change=(("CUDA_LAUNCH_BLOCKING", None),),
        rank=15,
        engines=_BOTH,
    ),
    ServingRule(
        "stats-off",
        "note",
        "Statistics are off: neither the log nor /metrics tells throughput and cache use",
        ("disable_log_stats",),
        lambda case: case.flag("disable_log_stats") is True and case.settings.kind != "python",
        matters="`salient doctor` sees less in such a log.",
        change=(("disable_log_stats", None),),
    ),
    ServingRule(
        "log-too-quiet",
        "note",
        "The log leaves out which kernel was chosen",
        ("VLLM_LOGGING_LEVEL",),
        lambda case: (
            case.variable("VLLM_LOGGING_LEVEL").upper() in ("WARNING", "ERROR", "CRITICAL")
        ),
        matters="Those lines have level INFO; `salient doctor` cannot tell fast from slow.",
        change=(("VLLM_LOGGING_LEVEL", "INFO"),),
    ),
)
