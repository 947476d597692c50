"""Rules about access to the server, batches, compilation and logs. Facts are vLLM 0.32's."""

from .rule_context import BOTH, RuleContext, ServingRule

_OPEN = ("0.0.0.0", "::", "[::]", "*")
# an API key of the server, by its argument or variable
_KEYS = ("api_key", "VLLM_API_KEY")
_QUIET = ("WARNING", "ERROR", "CRITICAL")
_NO_PREFIXES = (
    "Prompts that begin alike (a system prompt, a chat's history) are computed again each time."
)


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


def _unchunked(context: RuleContext) -> bool:
    return context.flag("enable_chunked_prefill") is False and not _short_prefill(context)


def _eager(context: RuleContext) -> bool:
    return context.flag("enforce_eager") is True and context.vendor != "cpu"


def _uncompiled(context: RuleContext) -> bool:
    config = context.value("compilation_config")
    mode = config.get("mode", config.get("level")) if isinstance(config, dict) else config
    off = isinstance(mode, int) and mode == 0 and not isinstance(mode, bool)
    level = context.value("optimization_level")
    return (off or level in ("0", 0)) and not _eager(context) and context.vendor != "cpu"


SPEED_RULES = (
    ServingRule(
        "few-sequences",
        "slow",
        "At most {value} requests run together",
        _few_sequences,
        why="A step reads all weights once, for however many requests: the others wait in line "
        "while the GPU could answer many at nearly the same cost. vLLM's default is 128 to 1024.",
        change={"max_num_seqs": None},
        certainty="likely",
        engines=BOTH,
    ),
    ServingRule(
        "prompt-too-long-for-batch",
        "error",
        "max_num_batched_tokens is less than max_model_len, and chunked prefill is off",
        _short_prefill,
        why="vLLM refuses it: a prompt must fit one batch (vllm/config/scheduler.py).",
        keys=("max_num_batched_tokens", "max_model_len", "enable_chunked_prefill"),
        change={"enable_chunked_prefill": None},
    ),
    ServingRule(
        "small-batches",
        "slow",
        "Prompts are read in very small chunks",
        _small_chunks,
        why="Each chunk reads all weights again. vLLM's default for a server is 2048 to 16384 "
        "tokens.",
        change={"max_num_batched_tokens": None},
        certainty="likely",
    ),
    ServingRule(
        "chunked-prefill-off",
        "warning",
        "Chunked prefill is off",
        _unchunked,
        why="A long prompt then delays every other answer.",
        change={"enable_chunked_prefill": None},
        certainty="possible",
    ),
    ServingRule(
        "prefix-caching-off",
        "warning",
        "Prefix caching is off",
        lambda c: c.flag("enable_prefix_caching") is False,
        why=_NO_PREFIXES,
        change={"enable_prefix_caching": None},
        certainty="possible",
    ),
    ServingRule(
        "prefix-caching-off",
        "warning",
        "The radix cache of common prefixes is off",
        lambda c: c.flag("disable_radix_cache") is True,
        why=_NO_PREFIXES,
        change={"disable_radix_cache": None},
        certainty="possible",
        engines=("sglang",),
    ),
    ServingRule(
        "eager",
        "slow",
        "CUDA graphs and compilation are off",
        _eager,
        why="Each step then starts hundreds of small kernels one by one. A 7B model decoded 1.7x "
        "slower on an A800 (vllm-omni issue 7960); 4-bit and small models lose most.",
        change={"enforce_eager": None},
        certainty="likely",
        rank=20,
        engines=BOTH,
    ),
    ServingRule(
        "not-compiled",
        "slow",
        "The model is not compiled",
        _uncompiled,
        why="Level 0 starts fast and runs slower: no fused kernels. The default is 2.",
        change={"optimization_level": None, "compilation_config": None},
        certainty="likely",
    ),
    ServingRule(
        "launch-blocking",
        "slow",
        "CUDA_LAUNCH_BLOCKING waits for every kernel",
        lambda c: c.on("CUDA_LAUNCH_BLOCKING"),
        why="It is for debugging. The CPU can prepare nothing ahead, and CUDA graphs may fail to "
        "be captured.",
        change={"CUDA_LAUNCH_BLOCKING": None},
        rank=15,
        engines=BOTH,
    ),
    ServingRule(
        "stats-off",
        "note",
        "Statistics are off: neither the log nor /metrics has throughput and cache use",
        lambda c: c.flag("disable_log_stats") is True and c.is_server,
        why="`salient doctor` sees less in such a log.",
        change={"disable_log_stats": None},
    ),
    ServingRule(
        "log-too-quiet",
        "note",
        "The log does not name the chosen kernel",
        lambda c: c.variable("VLLM_LOGGING_LEVEL").upper() in _QUIET,
        why="Those lines have level INFO; `salient doctor` cannot tell fast from slow.",
        change={"VLLM_LOGGING_LEVEL": "INFO"},
    ),
)
ACCESS_RULES = (
    ServingRule(
        "remote-code",
        "warning",
        "trust_remote_code runs Python that comes with the model",
        lambda c: c.flag("trust_remote_code") is True,
        why="Whoever can change that repository runs code on this server. AWQ itself needs none.",
        change={"trust_remote_code": None},
        do=("if the architecture needs it: read the code, and pin it with --code-revision COMMIT",),
        engines=BOTH,
    ),
    ServingRule(
        "open-to-network",
        "warning",
        "Everyone who reaches this address can use the model: there is no API key",
        _open,
        why="In a container this host is usual; then the published port decides.",
        keys=("host",),
        do=(
            "set VLLM_API_KEY, or listen on 127.0.0.1 behind a proxy",
            "the key guards /v1, /v2 and /inference only: other routes need the proxy",
        ),
        certainty="likely",
        engines=BOTH,
    ),
    ServingRule(
        "open-by-default",
        "note",
        "Without --host vLLM listens on every address, and there is no API key",
        _open_by_default,
        keys=("host",),
        do=("add --host 127.0.0.1, or set VLLM_API_KEY and put a proxy before it",),
    ),
    ServingRule(
        "secret-in-settings",
        "note",
        "A key is in the settings, where others may read it (ps shows arguments)",
        lambda c: c.is_set("api_key"),
        keys=("api_key",),
        do=("set VLLM_API_KEY in the environment instead",),
        certainty="likely",
    ),
    ServingRule(
        "key-set",
        "good",
        "Requests need an API key",
        lambda c: c.is_server and _has_key(c),
        keys=("api_key",),
        engines=BOTH,
    ),
)
