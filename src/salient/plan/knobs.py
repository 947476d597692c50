"""What can be set differently without less of a load: the engine's knobs, and what each costs.

Options are by the names of plan's own (`PlanOptions`), which are vLLM's where vLLM has them.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from salient.shapes.model_shape import ModelShape

from .device_names import find_gpu
from .engine_profiles import find_engine, step_sizes
from .gpus import Gpu
from .memory import Workload

Options = dict[str, str | int | float | bool]
# plan's option -> field of the workload, where they differ
_FIELDS = {
    "concurrency": "sequences",
    "context_length": "context",
    "tensor_parallel_size": "tp",
    "gpu_memory_utilization": "utilization",
    "enforce_eager": "eager",
}
# plan's options that are vLLM's arguments
VLLM_KNOBS = (
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "language_model_only",
    "enforce_eager",
)
_SHORT = {"tensor_parallel_size": "tp"}
# Shares and steps that vLLM's recipes set where memory is short.
TIGHT_UTILIZATION = 0.95
SMALL_STEP = 2048  # tokens
LANGUAGE_MODEL_ONLY = (0, 17)  # the first release of vLLM with the option
FP8_CACHE_FROM = 89  # compute capability; before, vLLM takes fp8_e5m2 only
EAGER = 6  # the cost of steps without graphs
_GGUF_CACHES = (("q8_0", 3), ("q4_0", 6))


@dataclass(frozen=True)
class Knob:
    """Options that are set together. cost: of what is lost by it, 1 for nothing."""

    options: Options
    cost: int


def free_knobs(shape: ModelShape, load: Workload) -> tuple[Knob, ...]:
    """The knobs that are not set yet and may lower the memory taken, the cheapest first."""
    if load.engine.family == "vllm":
        knobs = [*_vllm_knobs(shape, load)] if load.gpu.vendor != "cpu" else []
    else:
        kinds = [(kind, cost) for kind, cost in _GGUF_CACHES if kind in load.engine.kv_bytes]
        knobs = [Knob({"kv_dtype": kind}, cost) for kind, cost in kinds if load.kv_dtype == "auto"]
    return tuple(sorted(knobs, key=lambda knob: knob.cost))


def _vllm_knobs(shape: ModelShape, load: Workload) -> Iterable[Knob]:
    tokens, sequences = step_sizes(load.engine, load.gpu, load.prompt, load.sequences)
    if load.max_num_seqs is None and load.sequences < sequences:
        yield Knob({"max_num_seqs": load.sequences}, 1)
    own = load.engine.name == "vllm"  # SGLang has no such options
    if (
        own
        and shape.towers
        and not load.language_model_only
        and load.version >= LANGUAGE_MODEL_ONLY
    ):
        yield Knob({"language_model_only": True}, 4)
    if own and load.utilization is None and not load.gpu.unified:
        yield Knob({"gpu_memory_utilization": TIGHT_UTILIZATION}, 2)
    if load.max_num_batched_tokens is None and tokens > SMALL_STEP:
        yield Knob({"max_num_batched_tokens": SMALL_STEP}, 2)
    if load.kv_dtype == "auto" and (kind := _fp8_cache(load.gpu)):
        yield Knob({"kv_dtype": kind}, 3)
    if not load.eager:
        yield Knob({"enforce_eager": True}, EAGER)


def _fp8_cache(gpu: Gpu) -> str:
    """The 8-bit type of the cache there, "" where vLLM has none."""
    if gpu.vendor == "nvidia":
        return "fp8" if not gpu.capability or gpu.capability >= FP8_CACHE_FROM else "fp8_e5m2"
    return "fp8" if gpu.gfx.startswith(("gfx94", "gfx95", "gfx12")) else ""


def merged(knobs: Iterable[Knob]) -> Options:
    """The options of all of them."""
    return {name: value for knob in knobs for name, value in knob.options.items()}


def with_options(load: Workload, options: Mapping[str, str | int | float | bool]) -> Workload:
    """The workload under these options."""
    fields = {_FIELDS.get(name, name): value for name, value in options.items()}
    if "gpu" in fields:
        fields["gpu"] = find_gpu(str(fields["gpu"]).split(",")[0])  # pyright: ignore[reportArgumentType]
    if "engine" in fields:
        fields["engine"] = find_engine(str(fields["engine"]))  # pyright: ignore[reportArgumentType]
    if "context" in fields:
        fields["prompt"] = min(load.prompt, int(fields["context"]))
        if load.rope and int(fields["context"]) <= load.rope.native:
            fields["rope"] = None  # pyright: ignore[reportArgumentType]
    return replace(load, **fields)  # pyright: ignore[reportArgumentType]


def option_text(options: Mapping[str, str | int | float | bool]) -> str:
    """As they are typed: "--concurrency 2 --kv-dtype fp8"."""
    return " ".join(
        f"--{_SHORT.get(name, name).replace('_', '-')}"
        + ("" if value is True else f" {shlex.quote(str(value))}")
        for name, value in options.items()
    )
