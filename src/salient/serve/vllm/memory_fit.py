"""Whether the model fits where vLLM will run, and how long sequences may be.

On a GPU vLLM takes a share of the memory and gives its cache what is left; on a processor the cache
has a size that is told, for by itself vLLM asks for nearly all memory there and stops if it is not
free. Weights and cache are exact, working memory is an estimate.
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

from .device import TargetDevice
from .target import LaunchContext

# On a processor: vLLM's server, engine and worker beside weights and cache.
PROCESSES = 2 * GIB
CPU_SEQUENCES = 8  # for which the cache is made where nobody says how many
CACHE_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"  # GiB, a whole number
_OFFLOADS = ("cpu_offload_gb", "offload_backend", "offload_group_size")
_NODES = ("nnodes", "data_parallel_size", "headless")


@dataclass(frozen=True)
class MemoryFit:
    """What the plan settles.

    context: tokens a sequence that vLLM is to be told, None: left to it
    cache_gib: GiB of main memory for the cache, None where vLLM sees to it
    said: sentences for people; refused: why it cannot start, "" if nothing speaks against it
    """

    context: int | None = None
    cache_gib: int | None = None
    said: tuple[str, ...] = ()
    refused: str = ""


def plan_fit(found: LaunchContext) -> MemoryFit:
    """Plan memory for what `found` says."""
    load, shape, place = found.load(found.sequences or 1), found.stage_shape, found.place
    if load is None or shape is None or place is None:
        what = "GPU" if place is None else "model"
        said = f"Memory was not planned: the {what} is not known here."
        return MemoryFit(found.asked_context, said=(said,))
    if place.gpu.vendor == "cpu":
        return _on_processor(found, shape, load, place)
    refused = _too_few(found, place) or _not_free(found, load, place)
    planned = stored_budget(shape, found.size // found.stages, load)
    return _on_gpu(found, planned, load, refused)


def _on_gpu(found: LaunchContext, planned: MemoryBudget, load: Workload, refused: str) -> MemoryFit:
    weights, name = planned.items[0].bytes, load.gpu.name
    room = f"{mebibytes(planned.available)} of {name}'s {load.gpu.memory:.1f} GiB"
    offloads = any(one in found.given for one in _OFFLOADS)
    if weights > planned.available and not offloads:
        refused = refused or (
            f"The weights take {mebibytes(weights)} of each GPU, and vLLM may take {room}. Cut "
            "the model over more GPUs (--tp), or see what fits: salient plan "
            f"{found.request.checkpoint} --gpu '{name}'"
        )
    said = [
        f"Memory: {mebibytes(planned.taken)} of {room}: weights {mebibytes(weights)}, the cache of "
        f"{load.summary} {mebibytes(planned.items[-1].bytes)}, the rest is an estimate."
    ]
    longest = planned.largest_context
    if found.asked_context or longest >= load.context:
        if not planned.fits:
            said.append(f"That may not fit: {_fits(planned, load)}")
        return MemoryFit(load.context, said=tuple(said), refused=refused)
    if longest:
        said.append(
            f"The model was made for {load.context} tokens; {longest} fit and are served. "
            "--context-length overrides it."
        )
    else:
        said.append("That may not fit: no cache is left beside the weights.")
    return MemoryFit(longest or None, said=tuple(said), refused=refused)


def _fits(planned: MemoryBudget, load: Workload) -> str:
    if planned.most_sequences:
        return f"{planned.most_sequences} such sequences do; more of them wait for each other."
    if planned.largest_context:
        return f"one sequence of {planned.largest_context} tokens does (--context-length)."
    return "no cache is left beside the weights."


def _too_few(found: LaunchContext, place: TargetDevice) -> str:
    """Why the GPUs of this machine do not suffice, "" if they do or other machines take part."""
    needed = found.tp * found.stages
    others = any(one in found.given for one in _NODES)
    backend = found.given.text("distributed_executor_backend", "mp")
    if needed <= place.count or others or backend not in ("mp", "uni"):
        return ""
    return (
        f"{needed} GPUs are asked for (--tp {found.tp}"
        + (f", {found.stages} pipeline stages" if found.stages > 1 else "")
        + f"), and vLLM sees {place.count} here. Ask for fewer, or look at CUDA_VISIBLE_DEVICES; "
        "several machines need --nnodes or --distributed-executor-backend ray behind --."
    )


def _not_free(found: LaunchContext, load: Workload, place: TargetDevice) -> str:
    """vLLM stops where less than its share is free."""
    share = load.engine.utilization
    if place.free >= load.gpu.memory * GIB * share or "kv_cache_memory_bytes" in found.given:
        return ""
    fits = floor(place.free / (load.gpu.memory * GIB) * 100) / 100
    return (
        f"{mebibytes(place.free)} of {load.gpu.name}'s {load.gpu.memory:.1f} GiB are free, and "
        f"vLLM asks for a share of {share:g} of it all and would stop. End what holds the rest "
        f"(nvidia-smi shows it), or lower the share: -- --gpu-memory-utilization {fits:g}"
    )


def _on_processor(
    found: LaunchContext, shape: ModelShape, load: Workload, place: TargetDevice
) -> MemoryFit:
    """All memory is one: weights, processes and a cache of a told size."""
    told = _told_cache(found, load, place)
    room = (place.free - found.size - PROCESSES) // GIB * GIB
    largest = max(GIB, room) if told is None else told
    sequences, context = found.sequences or CPU_SEQUENCES, load.context
    if not found.asked_context and sequence_bytes(shape, load, context) > largest:
        context = largest_context(shape, load, largest) or context
    one = sequence_bytes(shape, load, context)
    cache = min(ceil(sequences * one / GIB) * GIB, largest) if told is None else told
    fits = cache // one if one else sequences
    said = [
        f"Memory: {mebibytes(place.free)} are free: weights {mebibytes(found.size)}, about "
        f"{mebibytes(PROCESSES)} for vLLM's processes, {mebibytes(cache)} of cache for {fits} "
        f"sequence{'s' * (fits != 1)} of {context} tokens."
    ]
    refused = ""
    if found.size >= place.free:
        refused = (
            f"The weights take {mebibytes(found.size)}, and {mebibytes(place.free)} of memory are "
            "free. End other programs, or serve a smaller model."
        )
    elif cache > place.free - found.size - PROCESSES:
        said.append("That may not fit: end other programs, or lower --context-length.")
    elif not fits:
        said.append(f"A sequence of {context} tokens does not fit in it: lower --context-length.")
    return MemoryFit(context, cache // GIB if told is None else None, tuple(said), refused)


def _told_cache(found: LaunchContext, load: Workload, place: TargetDevice) -> int | None:
    """Bytes of the cache where the user's words or variables say how large it is, None else."""
    variable = os.environ.get(CACHE_VARIABLE, "")
    if variable.isdecimal():  # it wins over the arguments
        return int(variable) * GIB
    if "kv_cache_memory_bytes" in found.given:
        return found.given.number("kv_cache_memory_bytes", GIB)
    if "gpu_memory_utilization" in found.given:
        left = load.engine.utilization * place.gpu.memory * GIB - found.size - PROCESSES
        return max(0, int(left))
    return None
