"""What a log says of its engine: version, settings, kernels, memory, speed."""

import re
from dataclasses import dataclass, field


@dataclass
class TrafficStats:
    """What the lines of statistics say. Throughputs in tokens/s, the rest in requests and percent.

    samples: lines looked at   full, free: of them, with waiting requests and a full, a free cache
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
    """What is known of the engine; "", None, 0 or an empty list where the log does not say.

    engine: "vllm" or "sglang"   device: "cpu", "gpu", "rocm" or "xpu"
    asked: the quantization that the command line asked for
    kernels: classes that vLLM says it uses for quantized linears and experts
    context: tokens a request may have   cache_dtype: "auto", "fp8", ...
    kv_tokens: tokens that the key-value cache holds; concurrency: requests of
        `concurrency_context` tokens that fit in it at once
    model_gib: memory of the weights on one device
    tracked: whether missing tensors are refused (enable_weights_track)
    began, loaded, complete: whether the engine's first line, the end of loading and the end of the
        start-up were seen
    requests: answers sent over HTTP   processes: those that were seen in lines of interest
    """

    engine: str = ""
    version: str = ""
    model: str = ""
    quantization: str = ""
    asked: str = ""
    dtype: str = ""
    device: str = ""
    tensor_parallel: int = 1
    eager: bool = False
    context: int | None = None
    cache_dtype: str = ""
    utilization: str = ""
    kernels: list[str] = field(default_factory=list)
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
    processes: list[str] = field(default_factory=list)

    @property
    def awq(self) -> bool:
        return self.quantization in ("awq", "awq_marlin", "auto_awq")

    @property
    def release(self) -> tuple[int, int]:
        """(0, 32) for 0.32.1; (0, 0) where the version is not known."""
        found = re.match(r"(\d+)\.(\d+)", self.version)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def words(self) -> dict[str, str]:
        """For the braces of findings: words that read well even where nothing is known."""
        model = self.model or "MODEL"
        return {
            "model": model,
            "name": model.rstrip("/").rsplit("/", 1)[-1],
            "version": self.version or "of an unknown version",
            "context": str(self.context or "the model's length"),
            "utilization": self.utilization or "0.9",
            "tensor_parallel": str(self.tensor_parallel),
        }
