"""What to change when a model does not fit; each way is tried, not guessed."""

from dataclasses import replace

from salient.core.report import mebibytes
from salient.plan.vllm.route import fitting_tp
from salient.shapes.model_shape import ModelShape

from .engine_profiles import GIB
from .gpus import catalogue
from .memory import Workload, budget, utilization
from .ranking import Candidate

LEAST_CONTEXT = 256  # tokens; less is of no use


def advice(shape: ModelShape, load: Workload, best: Candidate) -> tuple[str, ...]:
    """Ways that make `best` fit, the cheapest first; empty if it fits."""
    if best.budget.fits:
        return ()
    ways = [
        *_less_context(best, load),
        *_fewer_sequences(best, load),
        *_smaller_cache(shape, load, best),
        *_more_gpus(shape, load, best),
        *_larger_gpus(shape, load, best),
    ]
    if not ways:
        ways.append(
            f"no device of the catalogue holds {mebibytes(best.budget.taken)}: use pipeline "
            "parallelism over several machines, or a smaller model"
        )
    return tuple(ways)


def _less_context(best: Candidate, load: Workload) -> list[str]:
    longest = best.budget.largest_context
    if load.sequences == 1 and LEAST_CONTEXT <= longest < load.context:
        return [f"--context-length {longest} fits"]
    return []


def _fewer_sequences(best: Candidate, load: Workload) -> list[str]:
    most = best.budget.most_sequences
    return [f"--concurrency {most} fits"] if 0 < most < load.sequences else []


def _smaller_cache(shape: ModelShape, load: Workload, best: Candidate) -> list[str]:
    for kind in ("fp8", "q8_0", "q4_0"):
        if kind in load.engine.kv_bytes and load.kv_dtype == "auto":
            smaller = budget(shape, best.form, replace(load, kv_dtype=kind))
            if smaller.fits:
                return [f"--kv-dtype {kind} fits: {mebibytes(smaller.taken)}"]
    return []


def _more_gpus(shape: ModelShape, load: Workload, best: Candidate) -> list[str]:
    if not load.engine.tensor_parallel or load.gpu.vendor == "cpu":
        return []
    for tp in fitting_tp(shape, best.form.group or 1):
        if tp > load.tp and budget(shape, best.form, replace(load, tp=tp)).fits:
            return [f"--tp {tp} fits: {tp} of these GPUs"]
    return []


def _larger_gpus(shape: ModelShape, load: Workload, best: Candidate) -> list[str]:
    """The smallest devices of the same vendor that hold it."""
    needed = best.budget.taken / utilization(load.engine, load.gpu) / GIB
    larger = [g for g in catalogue() if g.vendor == load.gpu.vendor and g.memory >= needed]
    names = [f"{g.name} ({g.memory:g} GiB)" for g in sorted(larger, key=lambda g: g.memory)[:3]]
    return [f"a device of {needed:.0f} GiB: {', '.join(names)}"] if names else []
