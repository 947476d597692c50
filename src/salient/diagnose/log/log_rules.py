"""Rules over the facts of a log, where no single line states the cause.

Rules that conclude from a line's absence require a log with the engine's first line and the end of
loading. Throughput is reported, not judged: a log does not name the GPU.
"""

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from pathlib import Path

from salient.diagnose.finding import Finding
from salient.diagnose.rule import Match, Outcome, Place, Rule, apply_rules
from salient.diagnose.tables import read_rules
from salient.plan.vllm.versions import AUTO_AWQ, CPU_W4A8

from .log_facts import LogFacts

LOW_CONCURRENCY = 4.0  # requests of full length at once
LOW_PREFIX_HITS = 5.0  # percent
MANY_REQUESTS = 100
MANY_SAMPLES = 6  # statistics lines, ten seconds apart: a minute
LOW_ACCEPTANCE = 40.0  # percent of drafted tokens
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


# Conditions by the headers of rules.toml.
_CONDITIONS: dict[str, Callable[[LogCase], Outcome]] = {
    "awq-rocm": _awq_on_rocm,
    "awq-slow-kernel": _forced_awq,
    "awq-refused-by-marlin": _refused_by_marlin,
    "awq-slow-bfloat16": _slow_bfloat16,
    "kernel-other": _other_kernel,
    "eager": _eager,
    "tensors-untracked": _untracked,
    "cpu-w4a8": _cpu_w4a8,
    "cpu-float16": _cpu_float16,
    "concurrency-low": _low_concurrency,
    "waiting-cache-full": lambda case: _often(case, case.facts.traffic.full),
    "waiting-slots": lambda case: _often(case, case.facts.traffic.free),
    "preemptions": _preemptions,
    "prefix-hits-low": _low_prefix_hits,
    "drafts-refused": _low_acceptance,
    "not-a-number-requests": _corrupted,
    "concurrency": lambda case: (case.facts.concurrency or 0.0) >= LOW_CONCURRENCY,
    "throughput": _throughput,
    "unknown-error": _unknown_error,
}
*RULES, UNKNOWN_ERROR = read_rules(Path(__file__).with_name("rules.toml"), _CONDITIONS)


def judge_facts(
    facts: LogFacts, signatures: Set[str], rules: Iterable[Rule[LogCase]] = RULES
) -> list[Finding]:
    """The findings of all rules. signatures: ids of those in the log."""
    return apply_rules(rules, LogCase(facts, signatures), values=facts.values())
