"""Rules over the facts of a log, where no single line states the cause.

Rules that conclude from a line's absence require a log with the engine's first line and the end of
loading. Throughput is reported, not judged: a log does not name the GPU.
"""

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

from salient.diagnose.finding import Finding
from salient.diagnose.rule import Match, Outcome, Rule, apply_rules
from salient.diagnose.steps import UNKNOWN_SERVER, ServerFacts
from salient.diagnose.tables import read_rules, read_templates
from salient.plan.vllm.versions import AUTO_AWQ, CPU_W4A8

from .log_facts import LogFacts
from .root_cause import TRACKERS, RootCause

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


def _silent_awq(case: LogCase, device: str) -> bool:
    """AWQ was loaded on the device, and no line names its kernel."""
    facts = case.facts
    loaded = facts.awq and facts.began and facts.loaded and facts.device == device
    return loaded and not facts.kernels and not case.signatures & _KERNEL_SIGNATURES


_KERNEL_SIGNATURES = {*SLOW_SIGNATURES, "kernel-awq-marlin"}


def _forced_awq(case: LogCase) -> bool:
    forced = case.facts.quantization == "awq" and case.facts.release < AUTO_AWQ
    return forced and _silent_awq(case, "gpu")


def _refused_by_marlin(case: LogCase) -> bool:
    """auto_awq.py of vLLM 0.32 falls back without a line."""
    return case.facts.quantization == "auto_awq" and _silent_awq(case, "gpu")


def _slow_bfloat16(case: LogCase) -> bool:
    """CUDA's awq_gemm reads float16 (csrc/quantization/awq/gemm_kernels.cu)."""
    slow = case.signatures & SLOW_SIGNATURES or _forced_awq(case) or _refused_by_marlin(case)
    return bool(slow) and case.facts.dtype == "bfloat16" and case.facts.device == "gpu"


def _other_kernel(case: LogCase) -> str:
    """The kernel that vLLM takes on NVIDIA only where Machete, Marlin and Humming refuse."""
    slower = [k for k in case.facts.kernels if k.startswith(("Conch", "Exllama", "Triton"))]
    return slower[0] if slower and case.facts.device == "gpu" else ""


def _untracked(case: LogCase) -> bool:
    """A missing qzeros loads silently (model_loader/default_loader.py of vLLM 0.32)."""
    facts = case.facts
    return facts.awq and facts.loaded and not facts.tracked and facts.engine == "vllm"


def _cpu_w4a8(case: LogCase) -> bool:
    """model_executor/kernels/linear/mixed_precision/cpu.py of vLLM 0.32, which logs nothing."""
    facts = case.facts
    wide = facts.dtype == "bfloat16" and facts.release >= CPU_W4A8
    return facts.device == "cpu" and facts.awq and wide


def _cpu_float16(case: LogCase) -> bool:
    facts = case.facts
    return facts.device == "cpu" and facts.dtype == "float16" and facts.loaded


def _often(case: LogCase, count: int) -> Outcome:
    """Whether `count` statistics lines are a minute, and a quarter of all."""
    many = count >= MANY_SAMPLES and count * 4 >= case.facts.traffic.samples
    return Match(count=count) if many else None


def _preemptions(case: LogCase) -> Outcome:
    count = case.facts.traffic.preemptions
    return Match(count=count) if count else None


def _low_prefix_hits(case: LogCase) -> bool:
    hits = case.facts.traffic.prefix_hits
    return hits is not None and hits < LOW_PREFIX_HITS and case.facts.requests >= MANY_REQUESTS


def _throughput(case: LogCase) -> Outcome:
    traffic = case.facts.traffic
    alone = f"; {traffic.alone:.1f} with one request" if traffic.alone else ""
    return Match(values={"alone": alone}) if traffic.best_generation else None


def _below(number: float | None, bound: float) -> bool:
    return number is not None and number < bound


# Conditions by the headers of rules.toml.
_CONDITIONS: dict[str, Callable[[LogCase], Outcome]] = {
    "awq-rocm": lambda case: _silent_awq(case, "rocm"),
    "awq-slow-kernel": _forced_awq,
    "awq-refused-by-marlin": _refused_by_marlin,
    "awq-slow-bfloat16": _slow_bfloat16,
    "kernel-other": _other_kernel,
    "eager": lambda case: case.facts.eager and case.facts.device in ("gpu", "rocm"),
    "tensors-untracked": _untracked,
    "cpu-w4a8": _cpu_w4a8,
    "cpu-float16": _cpu_float16,
    "concurrency-low": lambda case: _below(case.facts.concurrency, LOW_CONCURRENCY),
    "waiting-cache-full": lambda case: _often(case, case.facts.traffic.full),
    "waiting-slots": lambda case: _often(case, case.facts.traffic.free),
    "preemptions": _preemptions,
    "prefix-hits-low": _low_prefix_hits,
    "drafts-refused": lambda case: _below(case.facts.traffic.acceptance, LOW_ACCEPTANCE),
    "not-a-number-requests": lambda case: case.facts.traffic.corrupted > 0,
    "concurrency": lambda case: (case.facts.concurrency or 0.0) >= LOW_CONCURRENCY,
    "throughput": _throughput,
}
RULES = read_rules(Path(__file__).with_name("rules.toml"), _CONDITIONS)
# The finding of each kind of failure, where no signature states the cause.
_ROOTS = read_templates(Path(__file__).with_name("roots.toml"))


def judge_facts(
    facts: LogFacts,
    signatures: Set[str],
    rules: Iterable[Rule[LogCase]] = RULES,
    server: ServerFacts = UNKNOWN_SERVER,
) -> list[Finding]:
    """The findings of all rules. signatures: ids of those in the log."""
    return apply_rules(rules, LogCase(facts, signatures), values=facts.values(), server=server)


def judge_root(
    root: RootCause, facts: LogFacts, log: str, served_after: int | None
) -> list[Finding]:
    """The finding of a failure that no signature states. log: its name in evidence"""
    cause, template = root.cause, _ROOTS[root.kind]
    engine = " ".join(filter(None, (facts.engine, facts.version)))
    terms = root.search_terms()
    tracker = TRACKERS.get(root.package(facts.engine))
    query = quote_plus(f"is:issue {terms}")
    steps = [f"Search: https://github.com/{tracker}/issues?q={query}"] if tracker else []
    survived = served_after is not None and served_after > cause.last and not root.fatal
    match = Match(
        [(f"{log}:{cause.stated}", cause.text)],
        {"label": root.label(), "terms": terms, "context": root.context(engine)},
        steps if template.id == "unknown-error" else (),
        certainty="possible" if survived else None,
    )
    return [template.finding(match)]
