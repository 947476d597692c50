"""Seconds of a decoding step and of a prompt: a roofline with fixed costs.

A decoding step reads every weight that it uses once and every cached number of its sequences. Its
matrices take the longest of what they read, multiply and unpack (a norm of the three, as matrices
of one step differ); attention's cache, launches, the routing of experts, the scheduler and the
GPUs' exchanges come on top. A prompt multiplies what a step reads.
"""

from collections import defaultdict
from dataclasses import dataclass

from salient.shapes.model_shape import ModelShape

from .quantization_rules import SIXTEEN
from .weight_formats import WeightFormat, end_bits, matrices

# The exponent of the norm: where two limits are equal, the time is a quarter longer than each.
SHARPNESS = 3
# Rows that a matrix product works on at least: those of a tensor core's instruction.
ROWS_OF_A_TILE = 16
WIDENED = 4  # bytes of a weight that is unpacked to 16 bits, written and read again
ROWS_OF_HEAD = 1024  # a prompt has logits of its last token only


@dataclass(frozen=True)
class ExpertWork:
    """Experts of a kind, over all blocks.

    bytes, weights, codes: of all copies; share: of the copies that one token passes
    """

    bytes: float
    weights: float
    codes: float
    share: float

    def used(self, rows: float) -> float:
        """The share of the copies that `rows` tokens pass together, evenly routed."""
        return 1 - (1 - self.share) ** rows


@dataclass(frozen=True)
class ModelWork:
    """What one step does with a model's weights.

    dense: bytes that every step reads; experts: those that depend on the tokens
    weights: elements of the dense matrices without the head; codes: those that are unpacked
    head: elements of the head
    widths: inputs of attention's output matrices, over all blocks: its products a token and token
    blocks: attention or mixer and inner layers count half a block each
    sparse, mixers, latents: blocks with experts, with a recurrent state, with a latent cache (MLA)
    """

    dense: float
    experts: tuple[ExpertWork, ...]
    weights: float
    codes: float
    head: float
    widths: float
    blocks: float
    sparse: int
    mixers: int
    latents: int

    def read(self, rows: float) -> float:
        """Bytes of weights that a step of `rows` tokens reads."""
        return self.dense + sum(one.bytes * one.used(rows) for one in self.experts)


@dataclass(frozen=True)
class StepRates:
    """Rates and fixed costs of an engine's kernel on some GPUs, all of them together.

    reads, expert_reads, cache_reads: bytes a second
    multiplies, expert_multiplies: products a second of long prompts
    unpacks, expert_unpacks: weights a second, 0 without a limit
    unpack_rows: rows that share an unpacking
    unpack_most: rows above which a matrix is unpacked whole, into memory
    tile: rows that a product works on at least
    block: seconds a block; sparse, mixer, latent: in addition, as in ModelWork
    prompt_block: seconds a block of a prompt's step
    step, row: seconds a step, and for each of its sequences; first: seconds before a first token
    """

    reads: float
    expert_reads: float
    cache_reads: float
    multiplies: float
    expert_multiplies: float
    unpacks: float
    expert_unpacks: float
    unpack_rows: float
    unpack_most: float
    tile: float
    block: float
    sparse: float
    mixer: float
    latent: float
    prompt_block: float
    step: float
    row: float
    first: float


def model_work(shape: ModelShape, form: WeightFormat) -> ModelWork:
    """The work of `shape` with its weights in `form`."""
    dense = weights = codes = 0.0
    sums: dict[float, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for linear, bits, times in matrices(shape, form):
        bits = SIXTEEN if bits is None else bits
        count = linear.weights * times
        packed = count if bits < SIXTEEN else 0
        if linear.copies == 1:
            dense, weights, codes = dense + count * bits / 8, weights + count, codes + packed
            continue
        kind = sums[linear.active / linear.copies]
        kind[:] = [kind[0] + count * bits / 8, kind[1] + count, kind[2] + packed]
    embedding, head = end_bits(shape, form)
    return ModelWork(
        dense + (embedding if shape.tied else head) / 8,
        tuple(ExpertWork(kind[0], kind[1], kind[2], share) for share, kind in sums.items()),
        weights,
        codes,
        shape.head_weights,
        sum(n.width for n in shape.linears if n.part == "attention" and n.split == "in"),
        sum(len({n.part in ("attention", "mixer") for n in b.linears}) / 2 for b in shape.blocks),
        sum(any(n.copies > 1 for n in block.linears) for block in shape.blocks),
        sum(block.cache.state > 0 for block in shape.blocks),
        sum(any("kv_a_proj" in n.name for n in block.linears) for block in shape.blocks),
    )


def step_seconds(work: ModelWork, rates: StepRates, rows: float, cached: float) -> float:
    """Seconds of a decoding step of `rows` sequences with `cached` bytes of cache each."""
    return (
        _norm(
            _read(work, rates, rows), _multiplied(work, rates, rows), _unpacked(work, rates, rows)
        )
        + rows * cached / rates.cache_reads
        + work.blocks * rates.block
        + _special(work, rates)
        + rates.step
        + rows * rates.row
    )


def prompt_seconds(work: ModelWork, rates: StepRates, tokens: float) -> float:
    """Seconds of a prompt of `tokens` tokens on an idle engine, without what `first` counts.

    Attention's products are 2 tokens^2 x width a block: scores and values, half of them masked.
    """
    multiplied = _multiplied(work, rates, tokens) + 2 * tokens**2 * work.widths / rates.multiplies
    fixed = work.blocks * rates.prompt_block + _special(work, rates) + rates.step + rates.row
    return _norm(_read(work, rates, tokens), multiplied) + fixed


def loaded_prompt_seconds(
    work: ModelWork, rates: StepRates, tokens: float, together: float = 1
) -> float:
    """Seconds by which a prompt holds up the sequences that decode.

    They share its reading of the weights, not its products; prompts that are read `together` share
    their launches.
    """
    products = _multiplied(work, rates, tokens) + 2 * tokens**2 * work.widths / rates.multiplies
    return products + work.blocks * rates.prompt_block / max(1, together)


def _special(work: ModelWork, rates: StepRates) -> float:
    special = work.sparse * rates.sparse + work.mixers * rates.mixer
    return special + work.latents * rates.latent


def _read(work: ModelWork, rates: StepRates, rows: float) -> float:
    experts = sum(one.bytes * one.used(rows) for one in work.experts)
    whole = rates.unpacks and rows > rates.unpack_most
    widened = WIDENED * work.codes if whole else 0
    return (work.dense + widened) / rates.reads + experts / rates.expert_reads


def _multiplied(work: ModelWork, rates: StepRates, rows: float) -> float:
    """Seconds of the products, of a whole tile of rows at least; of the head for few rows."""
    dense = work.weights * max(rows, rates.tile) + work.head * min(rows, ROWS_OF_HEAD)
    tile = min(rates.tile, ROWS_OF_A_TILE)
    experts = sum(
        one.weights * max(rows * one.share, tile * one.used(rows)) for one in work.experts
    )
    return 2 * (dense / rates.multiplies + experts / rates.expert_multiplies)


def _unpacked(work: ModelWork, rates: StepRates, rows: float) -> float:
    if not rates.unpacks or rows > rates.unpack_most:
        return 0.0

    def times(rows: float) -> float:
        return max(1, rows / rates.unpack_rows)

    experts = sum(
        one.codes * one.used(rows) * times(rows * one.share / one.used(rows))
        for one in work.experts
    )
    return work.codes * times(rows) / rates.unpacks + experts / rates.expert_unpacks


def _norm(*seconds: float) -> float:
    longest = max(seconds)
    if not longest:
        return 0.0
    return longest * sum((one / longest) ** SHARPNESS for one in seconds) ** (1 / SHARPNESS)
