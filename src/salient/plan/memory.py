"""The memory of each GPU that serving a model takes, item by item, and what still fits.

    budget  =  memory x utilization
            >= weights + activations + graphs + context  +  cache(context) x sequences

Every item has its formula, with the numbers in it, and its source.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil

from salient.plan.vllm.versions import NEWEST, Version
from salient.shapes.model_shape import ModelShape

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
from .weight_formats import StoredWeights, WeightFormat, padding, stored_weights

# Numbers that describe a recurrent state are kept in float32 (vLLM 0.32, mamba_ssm_cache_dtype).
STATE_BYTES = 4
# The share of the room that becomes blocks of states. vLLM's logs of Qwen3.8-27B on an RTX PRO 6000
# (vllm-project/recipes #831): 939 in FP8, 1011 in NVFP4, 556 in 16-bit with 0.95 of the memory.
STATE_BLOCKS = 0.9
# The share that macOS lets a GPU program allocate (Metal's recommendedMaxWorkingSetSize), from
# 64 GB of memory on.
METAL_SHARE = 0.75
# The system holds the rest of a memory that it shares: on a DGX Spark vLLM stops at its default of
# 0.92, and its recipes set 0.85.
UNIFIED_SHARE = 0.85


@dataclass(frozen=True)
class YarnOverride:
    """RoPE scaling by YaRN (arXiv 2309.00071) for contexts beyond the native length.

    factor: how many times `native`, the tokens that the model was made for
    parameters: the whole of the config's rope_parameters with the scaling
    section: the config's part that they belong to, "text_config", "" for the config itself
    """

    factor: float
    native: int
    parameters: Mapping[str, object]
    section: str = ""

    @property
    def context(self) -> int:
        """Tokens of the scaled model."""
        return int(self.factor * self.native)


@dataclass(frozen=True)
class Workload:
    """`sequences` at once, each of `context` tokens, over `tp` GPUs.

    prompt: tokens of a prompt; version: of vLLM

    The knobs, which keep the engine's default where None or False:
    max_num_seqs, max_num_batched_tokens: sequences and tokens of the largest step
    utilization: share of the memory that the engine may take
    language_model_only: without the towers; eager: without CUDA graphs
    rope: scaling of the positions
    """

    engine: EngineProfile
    gpu: Gpu
    context: int
    sequences: int = 1
    tp: int = 1
    kv_dtype: str = "auto"
    prompt: int = 1024
    version: Version = NEWEST
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    utilization: float | None = None
    language_model_only: bool = False
    eager: bool = False
    rope: YarnOverride | None = None

    @property
    def share(self) -> float:
        """The share of the device's memory that the engine may take."""
        if self.utilization is not None:
            return self.utilization
        return utilization(self.engine, self.gpu)

    @property
    def summary(self) -> str:
        """ "4 sequences x 8192 tokens"."""
        return f"{self.sequences} sequence{'s' * (self.sequences != 1)} x {self.context} tokens"


@dataclass(frozen=True)
class MemoryItem:
    """Bytes of one thing on each GPU, the formula, and the source of the rule."""

    what: str
    bytes: int
    formula: str
    source: str


@dataclass(frozen=True)
class MemoryBudget:
    """The plan of one GPU's memory.

    available: bytes that the engine may take; items: what it takes, the cache last
    largest_context: tokens of one sequence that fit; most_sequences: of `context` tokens each
    """

    available: int
    items: tuple[MemoryItem, ...]
    stored: StoredWeights
    largest_context: int
    most_sequences: int

    @property
    def taken(self) -> int:
        return sum(item.bytes for item in self.items)

    @property
    def fits(self) -> bool:
        return self.taken <= self.available


def budget(shape: ModelShape, form: WeightFormat, load: Workload) -> MemoryBudget:
    """Plan one GPU's memory for `shape` in `form` under `load`."""
    stored = stored_weights(_served(shape, load), form)
    return _budget(shape, _weights_item(shape, form, stored, load), stored, load)


def _served(shape: ModelShape, load: Workload) -> ModelShape:
    """The part of the model that the engine loads."""
    return replace(shape, towers={}) if load.language_model_only else shape


def stored_budget(shape: ModelShape, size: int, load: Workload) -> MemoryBudget:
    """The same for a checkpoint whose tensors take `size` bytes in its files."""
    formula = f"{size / GIB:.2f} GiB in the files"
    formula += f", over {load.tp} GPUs" if load.tp > 1 else ""
    item = MemoryItem("weights", ceil(size / load.tp), formula, "headers of the safetensors")
    return _budget(shape, item, StoredWeights(size, 0, 0, 0, 0, 0), load)


def _budget(
    shape: ModelShape, weights: MemoryItem, stored: StoredWeights, load: Workload
) -> MemoryBudget:
    fixed = [weights, *_working_items(shape, load)]
    available = int(load.gpu.memory * GIB * load.share)
    room = available - sum(item.bytes for item in fixed)
    return MemoryBudget(
        available,
        (*fixed, _cache_item(shape, load)),
        stored,
        largest_context(shape, load, room),
        most_sequences(shape, load, room),
    )


def utilization(engine: EngineProfile, gpu: Gpu) -> float:
    """The share of the memory to give to the engine: its default, or less on unified memory."""
    if not gpu.unified:
        return engine.utilization
    return min(engine.utilization, METAL_SHARE if gpu.vendor == "apple" else UNIFIED_SHARE)


def _weights_item(
    shape: ModelShape, form: WeightFormat, stored: StoredWeights, load: Workload
) -> MemoryItem:
    padded = padding(shape, form, load.tp) if load.engine.family == "vllm" else 0
    share = weights_share(stored, load.tp) + padded
    parameters = _served(shape, load).parameters
    formula = f"{parameters / 1e9:.2f} billion parameters: {stored.linears / GIB:.2f} GiB "
    formula += f"of {form.title} matrices + {(stored.total - stored.linears) / GIB:.2f} GiB in "
    formula += "16-bit" if not form.gguf else "16-bit or the mixture's types"
    if load.tp > 1:
        formula += f", over {load.tp} GPUs; norms and routers on each"
    if padded:
        formula += f"; {padded / GIB:.2f} GiB of padding of the experts"
    return MemoryItem("weights", share, formula, "config.json; bits a weight of the format")


def weights_share(stored: StoredWeights, tp: int) -> int:
    """Bytes on one of `tp` GPUs: matrices are cut, norms and what has no split are on each."""
    return stored.total - stored.cut + ceil(stored.cut / tp)


def _working_items(shape: ModelShape, load: Workload) -> list[MemoryItem]:
    engine = load.engine
    tokens, sequences = step_sizes(engine, load.gpu, load.prompt, load.sequences)
    tokens, sequences = load.max_num_batched_tokens or tokens, load.max_num_seqs or sequences
    step = step_bytes(shape, tokens, load.tp)
    logits = logits_bytes(shape, engine, tokens, sequences)
    items = [
        MemoryItem(
            "activations",
            max(step, logits),
            f"the larger of a step of {tokens} tokens ({step / GIB:.2f} GiB) and the logits of "
            f"{sequences} sequences x {shape.vocab} words ({logits / GIB:.2f} GiB)",
            "widths of the model; the engine's default batch",
        )
    ]
    if engine.graphs and not load.eager and load.gpu.vendor != "cpu":
        graphs = GRAPH_BYTES_A_BLOCK * len(shape.blocks)
        formula = f"{len(shape.blocks)} blocks x {GRAPH_BYTES_A_BLOCK >> 20} MiB"
        items.append(MemoryItem("CUDA graphs", graphs, formula, "vLLM's log lines; an estimate"))
    size, formula = engine.context_mib * 2**20, "the process and its libraries"
    if load.tp > 1:
        size, formula = size + NCCL_BYTES, formula + " + NCCL's buffers"
    items.append(MemoryItem("context", size, formula, engine.context_source))
    return items


def _cache_item(shape: ModelShape, load: Workload) -> MemoryItem:
    sequence = sequence_bytes(shape, load, load.context)
    number = kv_bytes(load.engine, load.kv_dtype)
    formula = f"{load.summary} x {shape.values_per_token} numbers x {number:g} bytes"
    windows = [b.cache.window for b in shape.blocks if b.cache.window is not None]
    late = shape.values_per_late_token
    if late != shape.values_per_token:
        formula += f" ({late} where windows are full)"
    if windows:
        formula += f"; {len(windows)} of {len(shape.blocks)} blocks cache {max(windows)} tokens"
    states = sum(block.cache.state for block in shape.blocks)
    if states:
        formula += f"; {states * STATE_BYTES / 2**20:.1f} MiB of state a sequence"
    return MemoryItem("KV cache", sequence * load.sequences, formula, "config.json, block by block")


def sequence_bytes(shape: ModelShape, load: Workload, context: int) -> int:
    """Cache bytes of one sequence of `context` tokens on each GPU."""
    number = kv_bytes(load.engine, load.kv_dtype)
    block = load.engine.block
    total = 0.0
    for cache, times in shape.caches:
        tokens = ceil(cache.tokens(context) / block) * block
        share = ceil(cache.heads / load.tp) / cache.heads  # on one GPU: whole heads, at least one
        entries = cache.entry_values * ceil(context / cache.entry_tokens) * number
        state = cache.state / load.tp * STATE_BYTES
        total += times * (cache.values * share * tokens * number + entries + state)
    return ceil(total)


def largest_context(shape: ModelShape, load: Workload, room: int) -> int:
    """The most tokens of one sequence whose cache fits into `room` bytes, at most the model's
    context length, in whole blocks of the engine; 0 if none fit."""
    most = load.rope.context if load.rope else shape.context or 2**20
    if sequence_bytes(shape, load, most) <= room:
        return most
    low, high = 0, most  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if sequence_bytes(shape, load, middle) <= room else (low, middle)
    return low // load.engine.block * load.engine.block


def most_sequences(shape: ModelShape, load: Workload, room: int) -> int:
    """How many sequences of the load's context fit into `room` bytes."""
    sequence = sequence_bytes(shape, load, load.context)
    return max(0, room // sequence) if sequence else 2**20


def most_states(shape: ModelShape, load: Workload, memory: MemoryBudget) -> int | None:
    """How many sequences' states vLLM has blocks for: it stops where they are fewer than
    --max-num-seqs. None for a model without states.

    A block of its cache is as large as the states of a group of layers, as many as there are of the
    rarer kind.
    """
    states = [(cache.state, count) for cache, count in shape.caches if cache.state]
    if not states:
        return None
    mixers, others = sum(count for _, count in states), len(shape.blocks)
    group = min(mixers, others - mixers) or mixers
    block = group * max(state for state, _ in states) * STATE_BYTES / load.tp
    room = memory.available - sum(item.bytes for item in memory.items[:-1])
    return int(room / block * STATE_BLOCKS)
