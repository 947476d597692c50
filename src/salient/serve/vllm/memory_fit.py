"""Memory before vLLM starts: whether the model fits, and how long sequences may be.

On a GPU vLLM takes a share of the memory, and its cache gets what the weights leave. On a processor
the size of the cache is an argument; by default vLLM requests nearly all memory and stops if
that is not free. Weights and cache are exact, working memory is an estimate.
"""

import os
from dataclasses import dataclass
from math import ceil, floor

from salient.core.report import mebibytes
from salient.plan.engine_profiles import GIB
from salient.plan.memory import (
    MemoryBudget,
    Workload,
    largest_context,
    sequence_bytes,
    stored_budget,
)
from salient.shapes.model_shape import ModelShape

from .target import LaunchContext, TargetDevice

PROCESSES = 2 * GIB  # on a processor: vLLM's server, engine and worker
CPU_SEQUENCES = 8  # of the cache, unless requested
CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"  # GiB, an integer
_OFFLOADS = ("cpu_offload_gb", "offload_backend", "offload_group_size")
_NODES = ("nnodes", "data_parallel_size", "headless")


@dataclass(frozen=True)
class MemoryFit:
    """The memory plan.

    context: tokens a sequence, None: left to vLLM
    cache_gib: GiB of main memory for the cache, None: left to vLLM
    lines: the plan for people   refusal: why vLLM cannot start, or ""
    """

    context: int | None = None
    cache_gib: int | None = None
    lines: tuple[str, ...] = ()
    refusal: str = ""


def plan_fit(context: LaunchContext) -> MemoryFit:
    load, shape = context.workload(context.sequences or 1), context.stage_shape
    device = context.device
    if load is None or shape is None or device is None:
        what = "GPU" if device is None else "model"
        line = f"Memory was not planned: the {what} is not known here."
        return MemoryFit(context.requested_context, lines=(line,))
    if device.gpu.vendor == "cpu":
        return _on_processor(context, shape, load, device)
    refusal = _too_few_gpus(context, device) or _too_little_free(context, load, device)
    return _on_gpu(
        context, stored_budget(shape, context.size // context.stages, load), load, refusal
    )


def _on_gpu(
    context: LaunchContext, budget: MemoryBudget, load: Workload, refusal: str
) -> MemoryFit:
    weights, name = budget.items[0].bytes, load.gpu.name
    room = f"{mebibytes(budget.available)} of {name}'s {load.gpu.memory:.1f} GiB"
    offloads = any(argument in context.arguments for argument in _OFFLOADS)
    if weights > budget.available and not offloads:
        refusal = refusal or (
            f"The weights take {mebibytes(weights)} of each GPU, and vLLM may take {room}. Use "
            "more GPUs (--tp), or see what fits: salient plan "
            f"{context.options.checkpoint} --gpu '{name}'"
        )
    lines = [
        f"Memory: {mebibytes(budget.taken)} of {room}: weights {mebibytes(weights)}, the cache of "
        f"{load.summary} {mebibytes(budget.items[-1].bytes)}, the rest is an estimate."
    ]
    longest, length = budget.largest_context, load.context
    if context.requested_context or longest >= length:
        if not budget.fits:
            lines.append(f"That may not fit: {_advice(budget)}")
    elif longest:
        lines.append(
            f"The model was made for {length} tokens; {longest} fit and are served. "
            "--context-length overrides it."
        )
        length = longest
    else:
        lines.append("That may not fit: the weights leave no room for the cache.")
        length = None
    return MemoryFit(length, lines=tuple(lines), refusal=refusal)


def _advice(budget: MemoryBudget) -> str:
    if budget.most_sequences:
        return f"{budget.most_sequences} such sequences do; more of them wait for each other."
    if budget.largest_context:
        return f"one sequence of {budget.largest_context} tokens does (--context-length)."
    return "the weights leave no room for the cache."


def _too_few_gpus(context: LaunchContext, device: TargetDevice) -> str:
    """A refusal if this machine has too few GPUs, "" if it has enough or other machines help."""
    needed = context.tp * context.stages
    nodes = any(argument in context.arguments for argument in _NODES)
    backend = context.arguments.text("distributed_executor_backend", "mp")
    if needed <= device.count or nodes or backend not in ("mp", "uni"):
        return ""
    stages = f", {context.stages} pipeline stages" if context.stages > 1 else ""
    return (
        f"{needed} GPUs are requested (--tp {context.tp}{stages}), and vLLM sees {device.count} "
        "here. Request fewer, or check CUDA_VISIBLE_DEVICES; several machines need --nnodes or "
        "--distributed-executor-backend ray after --."
    )


def _too_little_free(context: LaunchContext, load: Workload, device: TargetDevice) -> str:
    """A refusal if less than vLLM's share of the memory is free: vLLM would stop."""
    share, memory = load.engine.utilization, load.gpu.memory * GIB
    if device.free >= memory * share or "kv_cache_memory_bytes" in context.arguments:
        return ""
    return (
        f"{mebibytes(device.free)} of {load.gpu.name}'s {load.gpu.memory:.1f} GiB are free, and "
        f"vLLM requires a share of {share:g} of it all and would stop. End the programs that hold "
        "the rest (nvidia-smi shows them), or lower the share: -- --gpu-memory-utilization "
        f"{floor(device.free / memory * 100) / 100:g}"
    )


def _on_processor(
    context: LaunchContext, shape: ModelShape, load: Workload, device: TargetDevice
) -> MemoryFit:
    """Weights, processes and cache share the main memory."""
    size, length = context.size, load.context
    requested = _requested_cache(context, load, device)
    left = device.free - size - PROCESSES
    largest = max(GIB, left // GIB * GIB) if requested is None else requested
    if not context.requested_context and sequence_bytes(shape, load, length) > largest:
        length = largest_context(shape, load, largest) or length
    one = sequence_bytes(shape, load, length)
    sequences = context.sequences or CPU_SEQUENCES
    cache = min(ceil(sequences * one / GIB) * GIB, largest) if requested is None else requested
    fits = cache // one if one else sequences
    lines = [
        f"Memory: {mebibytes(device.free)} are free: weights {mebibytes(size)}, about "
        f"{mebibytes(PROCESSES)} for vLLM's processes, {mebibytes(cache)} of cache for {fits} "
        f"sequence{'s' * (fits != 1)} of {length} tokens."
    ]
    refusal = ""
    if size >= device.free:
        refusal = (
            f"The weights take {mebibytes(size)}, and {mebibytes(device.free)} of memory are "
            "free. End other programs, or serve a smaller model."
        )
    elif cache > left:
        lines.append("That may not fit: end other programs, or lower --context-length.")
    elif not fits:
        lines.append(f"A sequence of {length} tokens does not fit in it: lower --context-length.")
    cache_gib = cache // GIB if requested is None else None
    return MemoryFit(length, cache_gib, tuple(lines), refusal)


def _requested_cache(context: LaunchContext, load: Workload, device: TargetDevice) -> int | None:
    """Bytes of the cache by the user's variable or arguments, None without them."""
    variable = os.environ.get(CACHE_VARIABLE, "")
    if variable.isdecimal():  # takes precedence over the arguments
        return int(variable) * GIB
    if "kv_cache_memory_bytes" in context.arguments:
        return context.arguments.number("kv_cache_memory_bytes", GIB)
    if "gpu_memory_utilization" in context.arguments:
        left = load.engine.utilization * device.gpu.memory * GIB - context.size - PROCESSES
        return max(0, int(left))
    return None
