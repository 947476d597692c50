"""What serving a model takes of each GPU, line by line, and what still fits beside it.

    budget  =  memory x utilization
            >= weights + activations + graphs + context  +  cache(context) x sequences

Every line carries its formula with the numbers in it, and its source.
"""

from dataclasses import dataclass
from math import ceil

from salient.plan.vllm.versions import NEWEST, Version
from salient.shapes.model_shape import CacheShape, ModelShape

from .engine_profiles import (
    GIB,
    GRAPH_BYTES_A_BLOCK,
    NCCL_BYTES,
    EngineProfile,
    kv_bytes,
    logits_bytes,
    step_bytes,
    step_sizes,
)
from .gpus import Gpu
from .weight_formats import StoredWeights, WeightFormat, weights

# Numbers that describe a recurrent state are kept in float32 (vLLM 0.32, mamba_ssm_cache_dtype).
STATE_BYTES = 4
# What macOS lets a GPU program hold (Metal's recommendedMaxWorkingSetSize) on machines of 64 GB on.
METAL_SHARE = 0.75


@dataclass(frozen=True)
class Workload:
    """What is to be served: `sequences` together, each of `context` tokens, over `tp` GPUs.

    prompt: tokens of a prompt; version: of vLLM
    """

    engine: EngineProfile
    gpu: Gpu
    context: int
    sequences: int = 1
    tp: int = 1
    kv_dtype: str = "auto"
    prompt: int = 1024
    version: Version = NEWEST

    @property
    def words(self) -> str:
        """ "4 sequences x 8192 tokens"."""
        return f"{self.sequences} sequence{'s' * (self.sequences != 1)} x {self.context} tokens"


@dataclass(frozen=True)
class MemoryItem:
    """Bytes of one thing on each GPU, how they follow, and where the rule is from."""

    what: str
    bytes: int
    formula: str
    source: str


@dataclass(frozen=True)
class MemoryBudget:
    """One GPU's memory, planned.

    available: bytes that the engine may take; lines: what it takes, the cache last
    largest_context: tokens of one sequence that fit; most_sequences: of `context` tokens each
    """

    available: int
    lines: tuple[MemoryItem, ...]
    stored: StoredWeights
    largest_context: int
    most_sequences: int

    @property
    def taken(self) -> int:
        return sum(line.bytes for line in self.lines)

    @property
    def fits(self) -> bool:
        return self.taken <= self.available


def budget(shape: ModelShape, form: WeightFormat, load: Workload) -> MemoryBudget:
    """Plan one GPU's memory for `shape` in `form` under `load`."""
    stored = weights(shape, form)
    return _budget(shape, _weights_line(shape, form, stored, load), stored, load)


def stored_budget(shape: ModelShape, size: int, load: Workload) -> MemoryBudget:
    """The same for a checkpoint whose tensors take `size` bytes in its files."""
    formula = f"{size / GIB:.2f} GiB in the files"
    formula += f", over {load.tp} GPUs" if load.tp > 1 else ""
    line = MemoryItem("weights", ceil(size / load.tp), formula, "headers of the safetensors")
    return _budget(shape, line, StoredWeights(size, 0, 0, 0, 0, 0), load)


def _budget(
    shape: ModelShape, held: MemoryItem, stored: StoredWeights, load: Workload
) -> MemoryBudget:
    fixed = [held, *_working_lines(shape, load)]
    available = int(load.gpu.memory * GIB * utilization(load.engine, load.gpu))
    room = available - sum(line.bytes for line in fixed)
    return MemoryBudget(
        available,
        (*fixed, _cache_line(shape, load)),
        stored,
        largest_context(shape, load, room),
        most_sequences(shape, load, room),
    )


def utilization(engine: EngineProfile, gpu: Gpu) -> float:
    """The share of the device's memory that the engine may take."""
    return min(engine.utilization, METAL_SHARE) if gpu.vendor == "apple" else engine.utilization


def _weights_line(
    shape: ModelShape, form: WeightFormat, stored: StoredWeights, load: Workload
) -> MemoryItem:
    share = weights_share(shape, stored, load.tp)
    formula = f"{shape.parameters / 1e9:.2f} billion parameters: {stored.linears / GIB:.2f} GiB "
    formula += f"of {form.title} matrices + {(stored.total - stored.linears) / GIB:.2f} GiB at 16 "
    formula += "bits" if not form.gguf else "bits or as the mixture has it"
    if load.tp > 1:
        formula += f", over {load.tp} GPUs; norms and routers on each"
    return MemoryItem("weights", share, formula, "config.json; bits a weight of the format")


def weights_share(shape: ModelShape, stored: StoredWeights, tp: int) -> int:
    """Bytes of one of `tp` GPUs: matrices are cut, norms and what has no split are on each."""
    if tp == 1:
        return stored.total
    whole = shape.count(lambda linear: linear.split == "none" and not linear.unquantized)
    every = shape.count(lambda linear: not linear.unquantized) or 1
    cut = round(stored.linears * (1 - whole / every)) + stored.embedding + stored.head
    return (stored.total - cut) + ceil(cut / tp)


def _working_lines(shape: ModelShape, load: Workload) -> list[MemoryItem]:
    engine = load.engine
    tokens, sequences = step_sizes(engine, load.gpu, load.prompt, load.sequences)
    step, logits = (
        step_bytes(shape, tokens, load.tp),
        logits_bytes(shape, engine, tokens, sequences),
    )
    lines = [
        MemoryItem(
            "activations",
            max(step, logits),
            f"the larger of a step of {tokens} tokens ({step / GIB:.2f} GiB) and the logits of "
            f"{sequences} sequences x {shape.vocab} words ({logits / GIB:.2f} GiB)",
            "widths of the model; the engine's default batch",
        )
    ]
    if engine.graphs and load.gpu.vendor != "cpu":
        graphs = GRAPH_BYTES_A_BLOCK * len(shape.blocks)
        formula = f"{len(shape.blocks)} blocks x {GRAPH_BYTES_A_BLOCK >> 20} MiB"
        lines.append(
            MemoryItem("CUDA graphs", graphs, formula, "vLLM's own log lines; an estimate")
        )
    held, words = engine.context_bytes, "the process and its libraries"
    if load.tp > 1:
        held, words = held + NCCL_BYTES, words + " + NCCL's buffers"
    lines.append(MemoryItem("context", held, words, engine.context_source))
    return lines


def _cache_line(shape: ModelShape, load: Workload) -> MemoryItem:
    one = sequence_bytes(shape, load, load.context)
    each = kv_bytes(load.engine, load.kv_dtype)
    formula = f"{load.words} x {shape.values_per_token} numbers x {each:g} bytes"
    windows = [b.cache.window for b in shape.blocks if b.cache.window is not None]
    if windows:
        formula += f"; {len(windows)} of {len(shape.blocks)} blocks keep {max(windows)} tokens"
    states = sum(block.cache.state for block in shape.blocks)
    if states:
        formula += f"; {states * STATE_BYTES / 2**20:.1f} MiB of state a sequence"
    return MemoryItem("KV cache", one * load.sequences, formula, "config.json, block by block")


def sequence_bytes(shape: ModelShape, load: Workload, context: int) -> int:
    """Bytes that one sequence of `context` tokens keeps on each GPU."""
    each = kv_bytes(load.engine, load.kv_dtype)
    block = load.engine.block
    total = 0.0
    for layer in shape.blocks:
        cache = layer.cache
        tokens = ceil(cache.tokens(context) / block) * block
        total += cache.values * _share(cache, load.tp) * tokens * each
        total += cache.state / load.tp * STATE_BYTES
    return ceil(total)


def _share(cache: CacheShape, tp: int) -> float:
    """The part of a block's cache on one GPU: whole heads, each at least once."""
    return ceil(cache.heads / tp) / cache.heads


def largest_context(shape: ModelShape, load: Workload, room: int) -> int:
    """The most tokens of one sequence whose cache fits into `room` bytes (at most what the model
    was made for), a whole number of the engine's blocks; 0 if none fit."""
    most = shape.context or 2**20
    if sequence_bytes(shape, load, most) <= room:
        return most
    low, high = 0, most  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sequence_bytes(shape, load, middle) <= room else (low, middle)
    return low // load.engine.block * load.engine.block


def most_sequences(shape: ModelShape, load: Workload, room: int) -> int:
    """How many sequences of the load's context fit into `room` bytes."""
    one = sequence_bytes(shape, load, load.context)
    return max(0, room // one) if one else 2**20
