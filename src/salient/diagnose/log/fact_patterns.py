"""The lines that tell a fact, and how each is read into `LogFacts`.

Numbers that are printed again and again (throughput, waiting requests) are taken from the lines
that `lines` gives out: the first 200, then some of each MiB and its last. Texts of vLLM from
v1/engine/core.py, v1/metrics/loggers.py, v1/core/kv_cache_utils.py and, up to 0.10,
engine/metrics.py; of SGLang from managers/scheduler_metrics_mixin.py.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from .line_prefix import LogLine
from .log_facts import LogFacts

PROCESSES = 1000  # names kept at most
FULL = 90.0  # percent of the key-value cache from which on it is called full
_INT = r"\d[\d,]{0,15}"
_NUMBER = r"\d{1,12}(?:\.\d+)?"


@dataclass(frozen=True)
class FactPattern:
    """Lines that tell a fact.

    pattern: what the message matches from its start, so that quoted requests tell nothing
    """

    anchor: str
    pattern: str
    take: Callable[[LogFacts, re.Match[str]], None]


def _engine(facts: LogFacts, found: re.Match[str]) -> None:
    facts.engine, facts.began, facts.version = "vllm", True, found["version"]
    # A new start in the same log: what was said of the earlier one is void.
    facts.loaded = facts.complete = facts.traceback = False
    facts.exception = ""
    facts.kernels.clear()
    _settings(facts, found["config"])


def _asked(facts: LogFacts, found: re.Match[str]) -> None:
    facts.engine = facts.engine or "vllm"
    settings = found["settings"]
    asked = re.search(r"\bquantization(?:'?: |=)'([\w-]+)'", settings)
    facts.asked = asked[1] if asked else ""
    facts.tracked = bool(re.search(r"enable_weights_track'?\"?: ?[Tt]rue", settings))
    _settings(facts, settings)
    if not facts.began:
        facts.quantization = facts.quantization or facts.asked


# Fields of `name=value` and of `'name': value` -> the fact.
_FIELDS: tuple[tuple[str, str, Callable[[str], object]], ...] = (
    ("model", r"'([^']*)'", str),
    ("quantization", r"'?(?!None)([\w-]+)'?", str),
    ("dtype", r"'?(?:torch\.)?(\w+)'?", str),
    ("tensor_parallel", r"(\d+)", int),
    ("context", r"(\d+)", int),
    ("eager", r"(True|False)", lambda word: word == "True"),
    ("cache_dtype", r"'?([\w.]+)'?", str),
    ("utilization", r"([\d.]+)", str),
)
_SPELLINGS = {
    "model": "model(?:_tag|_path)?",
    "tensor_parallel": "(?:tensor_parallel_size|tp_size)",
    "context": "(?:max_seq_len|max_model_len|context_length)",
    "eager": "enforce_eager",
    "cache_dtype": "kv_cache_dtype",
    "utilization": "(?:gpu_memory_utilization|mem_fraction_static)",
}


def _settings(facts: LogFacts, text: str) -> None:
    for name, value, read in _FIELDS:
        found = re.search(rf"(?<!\w){_SPELLINGS.get(name, name)}(?:'?: |=){value}", text)
        if found and found[1] != "auto":
            setattr(facts, name, read(found[1]))
    if found := re.search(r"device_config=(\w+)", text):
        _device(facts, found[1])


def _device(facts: LogFacts, word: str) -> None:
    """vLLM calls ROCm's devices "cuda" too, so "rocm" once said stays."""
    if facts.device != "rocm":
        facts.device = {"cuda": "gpu", "gpu": "gpu"}.get(word.lower(), word.lower())


def _sglang(facts: LogFacts, found: re.Match[str]) -> None:
    facts.engine = "sglang"
    _settings(facts, found["settings"])


def _cache(facts: LogFacts, found: re.Match[str]) -> None:
    facts.kv_tokens = _int(found["tokens"])
    _device(facts, found["device"])
    facts.loaded = True


def _concurrency(facts: LogFacts, found: re.Match[str]) -> None:
    facts.concurrency_context = _int(found["context"])
    facts.concurrency = float(found["times"])


def _kernel(facts: LogFacts, found: re.Match[str]) -> None:
    if found["kernel"] not in facts.kernels:
        facts.kernels.append(found["kernel"])


def _weights(facts: LogFacts, found: re.Match[str]) -> None:
    facts.model_gib = float(found["gib"])
    facts.loaded = True


def _statistics(facts: LogFacts, found: re.Match[str]) -> None:
    traffic, text = facts.traffic, found.string
    running, waiting = int(found["running"]), int(found["waiting"])
    generation, cache = float(found["generation"]), float(found["cache"])
    traffic.samples += 1
    traffic.full += waiting > 0 and cache >= FULL
    traffic.free += waiting > 0 and cache < FULL
    traffic.running_most = max(traffic.running_most, running)
    traffic.waiting_most = max(traffic.waiting_most, waiting)
    traffic.cache_most = max(traffic.cache_most, cache)
    traffic.last_generation = generation
    traffic.best_generation = max(traffic.best_generation, generation)
    traffic.best_prompt = max(traffic.best_prompt, float(found["prompt"]))
    if running == 1:
        traffic.alone = max(traffic.alone, generation)
    if hits := re.search(rf"(?<!External )[Pp]refix cache hit rate: ({_NUMBER})%", text):
        traffic.prefix_hits = float(hits[1])
    for name, word in (("preemptions", "Preemptions"), ("corrupted", "Corrupted")):
        if number := re.search(rf"{word}: (\d+)", text):
            setattr(traffic, name, max(getattr(traffic, name), int(number[1])))


def _decoding(facts: LogFacts, found: re.Match[str]) -> None:
    traffic = facts.traffic
    running, generation = int(found["running"]), float(found["generation"])
    traffic.samples += 1
    traffic.running_most = max(traffic.running_most, running)
    traffic.waiting_most = max(traffic.waiting_most, int(found["waiting"]))
    traffic.last_generation = generation
    traffic.best_generation = max(traffic.best_generation, generation)
    if running == 1:
        traffic.alone = max(traffic.alone, generation)


def _acceptance(facts: LogFacts, found: re.Match[str]) -> None:
    facts.traffic.acceptance = float(found["percent"])


def _int(text: str) -> int:
    return int(text.replace(",", ""))


def _set(**values: object) -> Callable[[LogFacts, re.Match[str]], None]:
    def take(facts: LogFacts, found: re.Match[str]) -> None:
        for name, value in values.items():
            setattr(facts, name, value)

    return take


def _version(facts: LogFacts, found: re.Match[str]) -> None:
    facts.engine, facts.version = "vllm", found["version"]


READERS = (
    FactPattern(
        "LLM engine (v",
        r"Initializing an? [\w ]*LLM engine \(v(?P<version>[^)]+)\) with config: (?P<config>.*)",
        _engine,
    ),
    FactPattern("█  version ", r"[^'\"]*█ +version (?P<version>\d[\w.+]*)\s*$", _version),
    FactPattern(
        "LLM API server version ", r"vLLM API server version (?P<version>\d[\w.+]*)\s*$", _version
    ),
    FactPattern("non-default args: {'", r"non-default args: (?P<settings>\{.*)", _asked),
    FactPattern("args: Namespace(", r"args: (?P<settings>Namespace\(.*)", _asked),
    FactPattern("server_args=ServerArgs(", r"server_args=(?P<settings>ServerArgs\(.*)", _sglang),
    FactPattern(
        "Automatically detected platform",
        r"Automatically detected platform (?P<device>\w+)",
        lambda facts, found: _device(facts, found["device"]),
    ),
    FactPattern(
        "LinearKernel for ",
        r"Using (?P<kernel>\w+LinearKernel) for (?!mixed-precision)\w+",
        _kernel,
    ),
    FactPattern(" WNA16 MoE backend.", r"Using '(?P<kernel>[\w ]+)' WNA16 MoE backend", _kernel),
    FactPattern(
        "KV cache size: ",
        rf"(?P<device>[A-Z]+) KV cache size: (?P<tokens>{_INT}) tokens",
        _cache,
    ),
    FactPattern(
        "Maximum concurrency for ",
        rf"(?:.{{0,40}} tokens, )?Maximum concurrency for (?P<context>{_INT}) tokens per request: "
        rf"(?P<times>{_NUMBER})x",
        _concurrency,
    ),
    FactPattern("Model loading took ", rf"Model loading took (?P<gib>{_NUMBER}) Gi?B", _weights),
    FactPattern(
        "Loading model weights took ",
        rf"Loading model weights took (?P<gib>{_NUMBER}) GB",
        _weights,
    ),
    FactPattern("Loading weights took ", r"Loading weights took \d", _set(loaded=True)),
    FactPattern(
        "init engine (profile, create kv cache, warmup model) took ",
        r"init engine \(profile, .*took",
        _set(complete=True),
    ),
    FactPattern(
        "Application startup complete", r"Application startup complete", _set(complete=True)
    ),
    FactPattern("The server is fired up", r"The server is fired up", _set(complete=True)),
    FactPattern("Enforce eager set", r"Enforce eager set", _set(eager=True)),
    FactPattern(
        "Avg prompt throughput: ",
        r"(?:Engine \d+: |\d+ Engines Aggregated: )?"
        rf"Avg prompt throughput: (?P<prompt>{_NUMBER}) tokens/s, "
        rf"Avg generation throughput: (?P<generation>{_NUMBER}) tokens/s, "
        r"Running: (?P<running>\d+) reqs,(?: Swapped: \d+ reqs,)? "
        rf"(?:Waiting|Pending): (?P<waiting>\d+) reqs.*?KV cache usage: (?P<cache>{_NUMBER})%",
        _statistics,
    ),
    FactPattern(
        "#running-req: ",
        r"Decode batch[.,] #running-req: (?P<running>\d+),.*"
        rf"gen throughput \(token/s\): (?P<generation>{_NUMBER}), #queue-req: (?P<waiting>\d+)",
        _decoding,
    ),
    FactPattern(
        "Draft acceptance rate: ",
        rf"SpecDecoding metrics: .*Avg Draft acceptance rate: (?P<percent>{_NUMBER})%",
        _acceptance,
    ),
    FactPattern("Traceback (most", r"Traceback \(most recent call last\):", _set(traceback=True)),
)
# Counted, not read.
REQUESTS = "POST /v1/"
# Read in the message alone: the first exception of a traceback is the cause of later ones.
EXCEPTION = "Error"
# The source file of a line: nothing else says that a device of kind "cuda" is AMD's.
ROCM = "[rocm.py:"
_ROCM = re.compile(r"[^'\"]*\[rocm\.py:\d+\] ")
_EXCEPTION = re.compile(r"(?:[a-z_]\w*\.)*[A-Z]\w*Error(?:: .+)?$")
ANCHORS = (*(reader.anchor for reader in READERS), REQUESTS, EXCEPTION, ROCM)
_BY_ANCHOR = {anchor: [r for r in READERS if r.anchor == anchor] for anchor in ANCHORS}


def read_facts(facts: LogFacts, anchor: str, line: LogLine) -> None:
    """Put into `facts` what a line with the anchor says."""
    if line.process and line.process not in facts.processes and len(facts.processes) < PROCESSES:
        facts.processes.append(line.process)
    for reader in _BY_ANCHOR.get(anchor, ()):
        if found := re.match(reader.pattern, line.text):
            reader.take(facts, found)
    if anchor == ROCM and _ROCM.search(line.whole):
        facts.device = "rocm"
    if anchor == EXCEPTION and facts.traceback and not facts.exception:
        found = _EXCEPTION.match(line.text)
        facts.exception = found[0] if found else ""
