"""Rules over the facts of a log, where no single line states the cause.

Rules that conclude from a line's absence require a log with the engine's first line and the end of
loading. Throughput is reported, not judged: a log does not name the GPU.
"""

from collections.abc import Set
from dataclasses import dataclass

from salient.diagnose.finding import Finding
from salient.diagnose.rule import Match, Outcome, Place, Rule, apply_rules
from salient.plan.vllm.versions import AUTO_AWQ, CPU_W4A8

from .log_facts import LogFacts

LOW_CONCURRENCY = 4.0  # requests of full length at once
LOW_PREFIX_HITS = 5.0  # percent
MANY_REQUESTS = 100
MANY_SAMPLES = 6  # statistics lines, ten seconds apart: a minute
LOW_ACCEPTANCE = 40.0  # percent of drafted tokens
FASTER = "Marlin was measured up to 2.59 times faster (vLLM pull request #6654)."
# Signatures of the slow kernel, each with its reason.
SLOW_SIGNATURES = {
    "awq-forced-slow",
    "awq-unoptimized",
    "awq-layer-fallback",
    "awq-moe-fallback",
    "awq-rocm-triton",
}


@dataclass(frozen=True)
class LogCase:
    """The facts of a log and the ids of the signatures in it."""

    facts: LogFacts
    signatures: Set[str]


def _engine_line(facts: LogFacts) -> list[Place]:
    text = f"quantization={facts.quantization}, dtype={facts.dtype}, device={facts.device}"
    return [("engine line", text)]


def _silent_awq(case: LogCase, device: str) -> bool:
    """AWQ was loaded on the device, and no line names its kernel."""
    facts = case.facts
    loaded = facts.awq and facts.began and facts.loaded and facts.device == device
    return loaded and not facts.kernels and not case.signatures & _KERNEL_SIGNATURES


_KERNEL_SIGNATURES = {*SLOW_SIGNATURES, "kernel-awq-marlin"}


def _forced_awq(case: LogCase) -> Outcome:
    facts = case.facts
    forced = facts.quantization == "awq" and facts.release < AUTO_AWQ
    return forced and _silent_awq(case, "gpu") and _engine_line(facts)


def _refused_by_marlin(case: LogCase) -> Outcome:
    """auto_awq.py of vLLM 0.32 falls back without a line."""
    auto = case.facts.quantization == "auto_awq"
    return auto and _silent_awq(case, "gpu") and _engine_line(case.facts)


def _awq_on_rocm(case: LogCase) -> Outcome:
    return _silent_awq(case, "rocm") and _engine_line(case.facts)


def _slow_bfloat16(case: LogCase) -> Outcome:
    """CUDA's awq_gemm reads float16 (csrc/quantization/awq/gemm_kernels.cu)."""
    slow = case.signatures & SLOW_SIGNATURES or _forced_awq(case) or _refused_by_marlin(case)
    wide = case.facts.dtype == "bfloat16" and case.facts.device == "gpu"
    return [("engine line", "dtype=torch.bfloat16")] if slow and wide else []


def _other_kernel(case: LogCase) -> Outcome:
    """Kernels that vLLM takes on NVIDIA only where Machete, Marlin and Humming refuse."""
    slower = [k for k in case.facts.kernels if k.startswith(("Conch", "Exllama", "Triton"))]
    if not slower or case.facts.device != "gpu":
        return None
    return Match([("kernel line", f"Using {slower[0]}")], {"kernel": slower[0]})


def _eager(case: LogCase) -> Outcome:
    eager = case.facts.eager and case.facts.device in ("gpu", "rocm")
    return [("engine line", "enforce_eager=True")] if eager else []


def _untracked(case: LogCase) -> Outcome:
    """A missing qzeros loads silently (model_loader/default_loader.py of vLLM 0.32)."""
    facts = case.facts
    silent = facts.awq and facts.loaded and not facts.tracked and facts.engine == "vllm"
    return silent and _engine_line(facts)


def _cpu_w4a8(case: LogCase) -> Outcome:
    """model_executor/kernels/linear/mixed_precision/cpu.py of vLLM 0.32, which logs nothing."""
    facts = case.facts
    wide = facts.dtype == "bfloat16" and facts.release >= CPU_W4A8
    place = ("engine line", "dtype=torch.bfloat16, device_config=cpu")
    return [place] if facts.device == "cpu" and facts.awq and wide else []


def _cpu_float16(case: LogCase) -> Outcome:
    facts = case.facts
    half = facts.device == "cpu" and facts.dtype == "float16" and facts.loaded
    return [("engine line", "dtype=torch.float16, device_config=cpu")] if half else []


def _low_concurrency(case: LogCase) -> Outcome:
    times, length = case.facts.concurrency, case.facts.concurrency_context
    if times is None or times >= LOW_CONCURRENCY:
        return None
    text = f"Maximum concurrency for {length:,} tokens per request: {times:.2f}x"
    return [("key-value cache", text)]


def _often(case: LogCase, count: int) -> Outcome:
    """Whether `count` statistics lines are a minute, and a quarter of all."""
    many = count >= MANY_SAMPLES and count * 4 >= case.facts.traffic.samples
    return Match(_statistics(case), count=count) if many else None


def _statistics(case: LogCase) -> list[Place]:
    traffic = case.facts.traffic
    text = (
        f"running up to {traffic.running_most}, waiting up to {traffic.waiting_most}, cache up to "
        f"{traffic.cache_most:.1f}%, in {traffic.samples} lines looked at"
    )
    return [("statistics", text)]


def _preemptions(case: LogCase) -> Outcome:
    count = case.facts.traffic.preemptions
    return Match([("statistics", f"Preemptions: {count}")], count=count) if count else None


def _low_prefix_hits(case: LogCase) -> Outcome:
    hits = case.facts.traffic.prefix_hits
    if hits is None or hits >= LOW_PREFIX_HITS or case.facts.requests < MANY_REQUESTS:
        return None
    return [("statistics", f"Prefix cache hit rate: {hits:.1f}%")]


def _low_acceptance(case: LogCase) -> Outcome:
    rate = case.facts.traffic.acceptance
    if rate is None or rate >= LOW_ACCEPTANCE:
        return None
    return [("statistics", f"Avg Draft acceptance rate: {rate:.1f}%")]


def _corrupted(case: LogCase) -> Outcome:
    count = case.facts.traffic.corrupted
    return [("statistics", f"Corrupted: {count} reqs")] if count else None


def _throughput(case: LogCase) -> Outcome:
    traffic = case.facts.traffic
    alone = f"; {traffic.alone:.1f} with one request" if traffic.alone else ""
    return Match(_statistics(case), {"alone": alone}) if traffic.best_generation else None


def _unknown_error(case: LogCase) -> Outcome:
    """An exception without a signature, of an engine that did not start to serve."""
    facts = case.facts
    served = facts.complete or facts.requests or facts.traffic.samples
    if not facts.exception or served:
        return None
    return Match([("traceback", facts.exception[:300])], {"value": facts.exception[:200]})


RULES: tuple[Rule[LogCase], ...] = (
    Rule(
        "awq-rocm",
        "slow",
        "AWQ on ROCm runs through a plain Triton kernel; the log does not say so",
        _awq_on_rocm,
        certainty="likely",
        why="Choosing among the other kernels made a token 5.3 to 8.1 times faster on gfx1151 "
        "(vLLM pull request #55098).",
        do=(
            "Write the checkpoint as compressed-tensors, which has faster kernels on ROCm:",
            "salient quantize SOURCE --format compressed-tensors",
        ),
        rank=6,
    ),
    Rule(
        "awq-slow-kernel",
        "slow",
        "quantization=awq: the weights run through the old AWQ kernel, not through Marlin",
        _forced_awq,
        certainty="likely",
        why=FASTER,
        do=(
            "Drop `--quantization awq` from the command, or upgrade vLLM.",
            "Then look for `awq_marlin` in the engine's first line.",
        ),
        rank=6,
    ),
    Rule(
        "awq-slow-kernel",
        "slow",
        "No line says `Using ... for AutoAWQMarlinLinearMethod`: the slow AWQ kernel runs",
        _refused_by_marlin,
        certainty="likely",
        why=f"{FASTER} The log gives no reason; these are the possible ones.",
        do=(
            "VLLM_BATCH_INVARIANT=1 is set: unset it.",
            "zero_point is false in config.json: quantize with zeros, or write compressed-tensors.",
            "group_size is not 32, 64 or 128: quantize again, salient quantize SOURCE",
            "The GPU's compute capability is below 7.5: serve a GGUF with llama.cpp.",
            "Check the checkpoint's files: salient doctor {model}",
        ),
        rank=6,
    ),
    Rule(
        "awq-slow-bfloat16",
        "warning",
        "The slow AWQ kernel takes float16 only, and the model runs in bfloat16",
        _slow_bfloat16,
        certainty="possible",
        why="Expect `expected scalar type Half but found BFloat16` at the first request.",
        do=("Serve with --dtype float16, or get Marlin to run.",),
    ),
    Rule(
        "kernel-other",
        "warning",
        "Marlin does not take the 4-bit weights: {kernel} does",
        _other_kernel,
        why="vLLM tries Machete, Marlin and Humming first.",
        do=(
            "Check whether VLLM_DISABLED_KERNELS or --linear-backend excludes Marlin.",
            "Marlin requires groups of 32, 64 or 128 that divide each layer's inputs per GPU.",
        ),
        rank=30,
    ),
    Rule(
        "eager",
        "slow",
        "--enforce-eager: CUDA graphs and torch.compile are off",
        _eager,
        why="Small batches wait for the CPU to launch each kernel; 4-bit decoding most of all.",
        do=("Drop --enforce-eager; graphs take some memory and a longer start.",),
        rank=20,
    ),
    Rule(
        "tensors-untracked",
        "note",
        "vLLM does not report tensors missing from a quantized checkpoint: answers are then wrong",
        _untracked,
        do=(
            "Serve with --model-loader-extra-config '{{\"enable_weights_track\": true}}'",
            "Check the files: salient doctor {model}",
        ),
        rank=80,
    ),
    Rule(
        "cpu-w4a8",
        "note",
        "On a CPU with AMX, bfloat16 means 8-bit activations, and no line says so",
        _cpu_w4a8,
        certainty="possible",
        do=(
            "grep -o amx_int8 /proc/cpuinfo | head -1 shows whether the CPU has AMX.",
            "For 16-bit activations: VLLM_CPU_INT4_W4A8=0, or --dtype float16",
        ),
        rank=75,
    ),
    Rule(
        "cpu-float16",
        "note",
        "float16 on a CPU: products of many tokens are faster in bfloat16 if the CPU supports it",
        _cpu_float16,
        certainty="possible",
        do=("grep -o avx512_bf16 /proc/cpuinfo | head -1; if it is there: --dtype bfloat16",),
        rank=75,
    ),
    Rule(
        "concurrency-low",
        "warning",
        "The key-value cache holds {facts.concurrency:.2f} requests of "
        "{facts.concurrency_context:,} tokens at once",
        _low_concurrency,
        why="More requests of shorter length fit; long ones wait for each other.",
        do=(
            "Lower --max-model-len to what your requests need.",
            "Halve the cache: --kv-cache-dtype fp8 (compute capability 8.9 or newer).",
            "Raise --gpu-memory-utilization (now {utilization}), or add GPUs.",
        ),
        rank=30,
    ),
    Rule(
        "waiting-cache-full",
        "slow",
        "Requests wait (up to {traffic.waiting_most}) because the key-value cache is full",
        lambda case: _often(case, case.facts.traffic.full),
        why="The GPU has no memory for more concurrent requests; their first token comes late.",
        do=(
            "Lower --max-model-len, or halve the cache: --kv-cache-dtype fp8",
            "Free memory for the cache: a 4-bit checkpoint, a higher --gpu-memory-utilization.",
            "Or serve from more GPUs.",
        ),
        rank=30,
    ),
    Rule(
        "waiting-slots",
        "warning",
        "Requests wait (up to {traffic.waiting_most}) though the key-value cache has room",
        lambda case: _often(case, case.facts.traffic.free),
        certainty="likely",
        why="At most {traffic.running_most} ran at once: --max-num-seqs or the tokens of a step "
        "are the limit, or requests come faster than they are served.",
        do=(
            "Raise --max-num-seqs above {traffic.running_most} and --max-num-batched-tokens.",
            "If the throughput then stays the same, serve from more GPUs.",
        ),
        rank=40,
    ),
    Rule(
        "preemptions",
        "slow",
        "Requests are stopped and computed again: the key-value cache is too small",
        _preemptions,
        why="A preempted request's tokens are computed twice.",
        do=(
            "Lower --max-num-seqs, so that fewer share the cache.",
            "Enlarge it: --gpu-memory-utilization, --kv-cache-dtype fp8, a 4-bit checkpoint.",
        ),
        rank=30,
    ),
    Rule(
        "prefix-hits-low",
        "note",
        "Only {traffic.prefix_hits:.1f}% of prompt tokens hit the prefix cache",
        _low_prefix_hits,
        certainty="possible",
        why="Expected where prompts do not share a beginning.",
        do=(
            "Put what all prompts share first: system prompt and examples before dates and names.",
        ),
        rank=60,
    ),
    Rule(
        "drafts-refused",
        "warning",
        "The model accepts only {traffic.acceptance:.1f}% of the drafted tokens",
        _low_acceptance,
        certainty="likely",
        why="Rejected tokens are wasted work; with many requests they cost throughput.",
        do=("Lower num_speculative_tokens of --speculative-config, or drop it and compare.",),
        rank=40,
    ),
    Rule(
        "not-a-number-requests",
        "error",
        "{traffic.corrupted} requests had NaN in their logits: their answers are garbage",
        _corrupted,
        do=(
            "Serve with --dtype bfloat16: float16 may overflow.",
            "Check the checkpoint: salient evaluate {model}",
        ),
        rank=10,
    ),
    Rule(
        "concurrency",
        "good",
        "{facts.concurrency:.1f} requests of {facts.concurrency_context:,} tokens fit at once",
        lambda case: (case.facts.concurrency or 0.0) >= LOW_CONCURRENCY,
        rank=41,
    ),
    Rule(
        "throughput",
        "good",
        "Up to {traffic.best_generation:.1f} tokens/s were generated, by up to "
        "{traffic.running_most} requests at once{alone}",
        _throughput,
    ),
)
# Applies only if no other error was found.
UNKNOWN_ERROR: Rule[LogCase] = Rule(
    "unknown-error",
    "error",
    "It stopped with an unrecognized error: {value}",
    _unknown_error,
    certainty="likely",
    do=("Search for its text at https://github.com/vllm-project/vllm/issues",),
    rank=70,
)


def judge_facts(
    facts: LogFacts, signatures: Set[str], rules: tuple[Rule[LogCase], ...] = RULES
) -> list[Finding]:
    """The findings of all rules. signatures: ids of those in the log."""
    return apply_rules(rules, LogCase(facts, signatures), values=facts.values())
