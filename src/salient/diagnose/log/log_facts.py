"""Facts of an engine that its log states: version, settings, kernels, memory, throughput.

Texts of vLLM are from v1/engine/core.py, v1/metrics/loggers.py, v1/core/kv_cache_utils.py and, up
to 0.10, engine/metrics.py; of SGLang from managers/scheduler_metrics_mixin.py. Numbers that are
printed periodically come from the lines that the scanner samples: the first 200, then a few of each
MiB and its last.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from salient.diagnose.steps import ServerFacts
from salient.diagnose.toml_file import read_toml

from .line_prefix import LogLine
from .logged_arguments import logged_server, read_arguments

Phase = Literal["", "start", "serving", "end"]

MAX_PROCESSES = 1000
FULL_CACHE = 90.0  # percent of the key-value cache in use
_INT = r"\d[\d,]{0,15}"
_NUMBER = r"\d{1,12}(?:\.\d+)?"


@dataclass
class TrafficStats:
    """The periodic statistics. Throughputs in tokens/s, the rest in requests and percent.

    samples: lines read   full, free: of them, with waiting requests and a full, a free cache
    alone: best generation throughput while one request ran
    """

    samples: int = 0
    full: int = 0
    free: int = 0
    waiting_most: int = 0
    running_most: int = 0
    cache_most: float = 0.0
    last_generation: float = 0.0
    best_generation: float = 0.0
    best_prompt: float = 0.0
    alone: float = 0.0
    prefix_hits: float | None = None
    preemptions: int = 0
    corrupted: int = 0
    acceptance: float | None = None


@dataclass
class LogFacts:
    """What the log states; "", None, 0 or an empty list where it does not.

    engine: "vllm", "sglang", "llama.cpp", "ollama", "tgi"   device: "cpu", "gpu", "rocm" or "xpu"
    requested: the quantization on the command line ("asked" in JSON)
    capability: CUDA compute capability
    kernels: classes that run quantized linears and experts
    context: tokens a request may have   cache_dtype: "auto", "fp8", ...
    kv_tokens: capacity of the key-value cache; concurrency: requests of `concurrency_context`
        tokens that fit in it at once
    model_gib: memory of the weights on one device
    tracked: whether missing tensors are refused (enable_weights_track)
    began, loaded, complete: whether the engine's first line, the end of loading and the end of the
        start-up are in the log
    requests: answers sent over HTTP   processes: those named in lines of interest
    arguments: of the command line, by vLLM's names, None until the log prints them
    draft: whether a draft model is loaded, None if the log does not state it
    The last two are not in JSON.
    """

    engine: str = ""
    version: str = ""
    model: str = ""
    quantization: str = ""
    requested: str = ""
    dtype: str = ""
    device: str = ""
    tensor_parallel: int = 1
    eager: bool = False
    context: int | None = None
    cache_dtype: str = ""
    utilization: str = ""
    kernels: list[str] = field(default_factory=list[str])
    kv_tokens: int | None = None
    concurrency: float | None = None
    concurrency_context: int | None = None
    model_gib: float | None = None
    tracked: bool = False
    began: bool = False
    loaded: bool = False
    complete: bool = False
    traceback: bool = False
    exception: str = ""
    traffic: TrafficStats = field(default_factory=TrafficStats)
    requests: int = 0
    lines: int = 0
    bytes: int = 0
    processes: list[str] = field(default_factory=list[str])
    capability: float | None = None
    arguments: dict[str, object] | None = None
    draft: bool | None = None

    @property
    def server(self) -> ServerFacts:
        """What steps depend on."""
        tp_known = self.began or self.tensor_parallel > 1 or self.arguments is not None
        server = logged_server(
            engine=self.engine,
            version=self.version,
            device=self.device,
            dtype=self.dtype,
            quantization=self.quantization,
            tp=self.tensor_parallel if tp_known else None,
            utilization=self.utilization,
            arguments=self.arguments or ({"enforce_eager": True} if self.eager else {}),
            complete=self.arguments is not None,
            draft=self.draft,
        )
        return replace(server, capability=self.capability)

    @property
    def awq(self) -> bool:
        return self.quantization in ("awq", "awq_marlin", "auto_awq")

    @property
    def release(self) -> tuple[int, int]:
        """(0, 32) for 0.32.1; (0, 0) if the version is unknown."""
        match = re.match(r"(\d+)\.(\d+)", self.version)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def values(self) -> dict[str, object]:
        """Values for the braces of findings; None where unknown."""
        model = self.model or "MODEL"
        return {
            "facts": self,
            "traffic": self.traffic,
            "model": model,
            "name": model.rstrip("/").rsplit("/", 1)[-1],
            "version": self.version or None,
            "context": self.context,
            "utilization": self.utilization or None,
            "tensor_parallel": self.server.tp,
        }

    def to_dict(self) -> dict[str, object]:
        data = {"asked" if k == "requested" else k: value for k, value in asdict(self).items()}
        del data["arguments"], data["draft"]
        return data


@dataclass(frozen=True)
class FactPattern:
    """A row of facts.toml: a line that states facts.

    pattern: matched from the message's start, so that quoted requests state nothing; <int> and
        <number> stand for numbers
    take: the function that reads the match; by default its named groups are facts
    facts: what the line states in addition
    phase: what the line shows: an engine starts, the server answers, somebody ends it
    """

    anchor: str
    pattern: str
    take: str = ""
    phase: Phase = ""
    facts: Mapping[str, object] = field(default_factory=dict[str, object])

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern.replace("<int>", _INT).replace("<number>", _NUMBER))


# Fields of `name=value` and of `'name': value`: fact, spellings, value, conversion
_FIELDS: tuple[tuple[str, str, str, Callable[[str], object]], ...] = (
    ("model", "model(?:_tag|_path)?", r"'([^']*)'", str),
    ("quantization", "quantization", r"'?(?!None)([\w-]+)'?", str),
    ("dtype", "dtype", r"'?(?:torch\.)?(\w+)'?", str),
    ("tensor_parallel", "(?:tensor_parallel_size|tp_size)", r"(\d+)", int),
    ("context", "(?:max_seq_len|max_model_len|context_length)", r"(\d+)", int),
    ("eager", "enforce_eager", r"(True|False)", lambda text: text == "True"),
    ("cache_dtype", "kv_cache_dtype", r"'?([\w.]+)'?", str),
    ("utilization", "(?:gpu_memory_utilization|mem_fraction_static)", r"([\d.]+)", str),
)


def _take_settings(facts: LogFacts, text: str) -> None:
    for name, spellings, value, convert in _FIELDS:
        match = re.search(rf"(?<!\w){spellings}(?:'?: |=){value}", text)
        if match and match[1] != "auto":
            setattr(facts, name, convert(match[1]))
    if match := re.search(r"device_config=(\w+)", text):
        _take_device(facts, match[1])


def _take_device(facts: LogFacts, device: str) -> None:
    """vLLM calls ROCm's devices "cuda" too, so "rocm" stays once set."""
    if facts.device != "rocm":
        facts.device = {"cuda": "gpu"}.get(device.lower(), device.lower())


def _engine(facts: LogFacts, match: re.Match[str]) -> None:
    facts.engine, facts.began = "vllm", True
    facts.version = match.groupdict().get("version") or facts.version
    # A restart in the same log: the facts of the previous start do not hold any more.
    facts.loaded = facts.complete = facts.traceback = False
    facts.exception = ""
    facts.kernels.clear()
    if "speculative_config=" in match["config"]:
        facts.draft = "speculative_config=None" not in match["config"]
    _take_settings(facts, match["config"])


def _arguments(facts: LogFacts, match: re.Match[str]) -> None:
    facts.engine = facts.engine or "vllm"
    settings = match["settings"]
    requested = re.search(r"\bquantization(?:'?: |=)'([\w-]+)'", settings)
    facts.requested = requested[1] if requested else ""
    facts.arguments = read_arguments(settings, facts.engine)
    facts.tracked = bool(re.search(r"enable_weights_track'?\"?: ?[Tt]rue", settings))
    _take_settings(facts, settings)
    if not facts.began:
        facts.quantization = facts.quantization or facts.requested


def _sglang(facts: LogFacts, match: re.Match[str]) -> None:
    facts.engine = "sglang"
    facts.arguments = read_arguments(match["settings"], "sglang")
    _take_settings(facts, match["settings"])


def _kernel(facts: LogFacts, match: re.Match[str]) -> None:
    if match["kernel"] not in facts.kernels:
        facts.kernels.append(match["kernel"])


def _statistics(facts: LogFacts, match: re.Match[str]) -> None:
    traffic = facts.traffic
    running, waiting = int(match["running"]), int(match["waiting"])
    generation = float(match["generation"])
    traffic.samples += 1
    traffic.running_most = max(traffic.running_most, running)
    traffic.waiting_most = max(traffic.waiting_most, waiting)
    traffic.last_generation = generation
    traffic.best_generation = max(traffic.best_generation, generation)
    if running == 1:
        traffic.alone = max(traffic.alone, generation)
    groups = match.groupdict()
    if "cache" in groups:
        _vllm_statistics(traffic, match, waiting)
    elif usage := groups.get("usage"):
        facts.engine = "sglang"
        _cache_use(traffic, float(usage) * 100, waiting)


def _vllm_statistics(traffic: TrafficStats, match: re.Match[str], waiting: int) -> None:
    text = match.string
    _cache_use(traffic, float(match["cache"]), waiting)
    traffic.best_prompt = max(traffic.best_prompt, float(match["prompt"]))
    if hits := re.search(rf"(?<!External )[Pp]refix cache hit rate: ({_NUMBER})%", text):
        traffic.prefix_hits = float(hits[1])
    if number := re.search(r"Preemptions: (\d+)", text):
        traffic.preemptions = max(traffic.preemptions, int(number[1]))
    if number := re.search(r"Corrupted: (\d+)", text):
        traffic.corrupted = max(traffic.corrupted, int(number[1]))


def _cache_use(traffic: TrafficStats, cache: float, waiting: int) -> None:
    """cache: percent of the key-value cache in use"""
    traffic.full += waiting > 0 and cache >= FULL_CACHE
    traffic.free += waiting > 0 and cache < FULL_CACHE
    traffic.cache_most = max(traffic.cache_most, cache)


def _llama(facts: LogFacts, match: re.Match[str]) -> None:
    """Ollama runs llama.cpp."""
    facts.engine = facts.engine or "llama.cpp"


def _acceptance(facts: LogFacts, match: re.Match[str]) -> None:
    facts.traffic.acceptance = float(match["percent"])


_TAKES = {
    "engine": _engine,
    "arguments": _arguments,
    "sglang": _sglang,
    "kernel": _kernel,
    "statistics": _statistics,
    "acceptance": _acceptance,
    "llama": _llama,
}
# Counted only.
REQUESTS = "POST /v1/"
_ANSWERED = re.compile(r'POST /v1/\S* HTTP/[\d.]+"? 200\b')
# A line's source file: nothing else shows that a device of kind "cuda" is AMD's.
_ROCM = "[rocm.py:"
_ROCM_LINE = re.compile(r"[^'\"]*\[rocm\.py:\d+\] ")
FACT_PATTERNS = [
    FactPattern(**row) for row in read_toml(Path(__file__).with_name("facts.toml")).values()
]
ANCHORS = (*(row.anchor for row in FACT_PATTERNS), REQUESTS, _ROCM)
_BY_ANCHOR = {row.anchor: row for row in FACT_PATTERNS}
_CONVERSIONS: dict[str, Callable[[str], object]] = {
    "kv_tokens": int,
    "context": int,
    "capability": float,
    "concurrency_context": int,
    "concurrency": float,
    "model_gib": float,
}


def _take_match(facts: LogFacts, row: FactPattern, match: re.Match[str]) -> None:
    for name, value in row.facts.items():
        if name != "engine" or facts.engine in ("", "llama.cpp"):  # Ollama runs llama.cpp
            setattr(facts, name, value)
    if row.take:
        _TAKES[row.take](facts, match)
        return
    for name, text in match.groupdict().items():
        if name == "device":
            _take_device(facts, text)
        else:
            setattr(facts, name, _CONVERSIONS.get(name, str)(text.replace(",", "")))


def take_facts(facts: LogFacts, anchor: str, line: LogLine) -> None:
    """Add the facts of a line that contains the anchor."""
    room = len(facts.processes) < MAX_PROCESSES
    if line.process and room and line.process not in facts.processes:
        facts.processes.append(line.process)
    if row := _BY_ANCHOR.get(anchor):
        if match := row.regex.match(line.text):
            _take_match(facts, row, match)
    elif anchor == _ROCM and _ROCM_LINE.search(line.whole):
        facts.device = "rocm"


def phase_of(anchor: str, line: LogLine) -> Phase:
    """What a line with the anchor shows about the life of the server."""
    row = _BY_ANCHOR.get(anchor)
    if row is None:
        answered = anchor == REQUESTS and _ANSWERED.search(line.text)
        return "serving" if answered else ""
    return row.phase if row.phase and row.regex.match(line.text) else ""
