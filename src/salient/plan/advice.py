"""What to change where nothing fits; every suggestion is planned again before it is printed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from salient.plan.vllm.sharding import fitting_tp
from salient.shapes.model_shape import ModelShape

from .engine_profiles import GIB
from .gpus import catalogue
from .memory import Workload
from .ranking import Candidate, candidates
from .requirements import Requirements

LEAST_CONTEXT = 256  # tokens; less is of no use
MOST_CHANGES = 3


@dataclass(frozen=True)
class Change:
    """A suggestion that was planned again: `candidate` runs, fits and meets the requirements.

    text: for people, with what it leads to
    options: what differs from the plan, by plan's names ("concurrency", "context_length", "gpu",
        "kv_dtype", "tensor_parallel_size") and vLLM's for the other knobs ("max_num_seqs", ...)
    load: the workload with these options
    """

    text: str
    options: dict[str, str | int | float]
    load: Workload
    candidate: Candidate


def changes(
    shape: ModelShape, load: Workload, required: Requirements, best: Candidate
) -> tuple[Change, ...]:
    """Up to MOST_CHANGES changes with which a format will do, the cheapest first.

    Empty where `best` will do, or where no change helps.
    """
    if best.good:
        return ()
    checked: list[Change] = []
    for options, changed in _attempts(shape, load, best):
        candidate = candidates(shape, changed, required)[0]
        if candidate.good:
            checked.append(Change(_text(options, candidate), options, changed, candidate))
        if len(checked) == MOST_CHANGES:
            break
    return tuple(checked)


def _text(options: dict[str, str | int | float], candidate: Candidate) -> str:
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    return f"{flags} fits: {candidate.form.title}"


def _attempts(
    shape: ModelShape, load: Workload, best: Candidate
) -> Iterator[tuple[dict[str, str | int | float], Workload]]:
    memory = best.budget
    if load.sequences == 1 and LEAST_CONTEXT <= memory.largest_context < load.context:
        context = memory.largest_context
        yield {"context_length": context}, replace(load, context=context)
    if 0 < memory.most_sequences < load.sequences:
        most = memory.most_sequences
        yield {"concurrency": most}, replace(load, sequences=most)
    for kind in ("fp8", "q8_0", "q4_0"):
        if kind in load.engine.kv_bytes and load.kv_dtype == "auto":
            yield {"kv_dtype": kind}, replace(load, kv_dtype=kind)
    if load.engine.tensor_parallel and load.gpu.vendor != "cpu":
        for tp in fitting_tp(shape, best.form.group or 1):
            if tp > load.tp:
                yield {"tensor_parallel_size": tp}, replace(load, tp=tp)
    needed = memory.taken / load.share / GIB
    larger = [g for g in catalogue() if g.vendor == load.gpu.vendor and g.memory >= needed]
    for gpu in sorted(larger, key=lambda gpu: gpu.memory):
        yield {"gpu": gpu.name}, replace(load, gpu=gpu)
