"""A count of parameters against its other evidence: the model's name, the bytes of its files.

Imports no torch.
"""

from dataclasses import replace

from salient.core.model_files import ShardIndex

from .model_shape import ModelShape
from .named_size import NamedSize, fits_active, fits_total, named_size
from .tensor_names import language_block

DTYPE_BYTES = {"float32": 4, "float64": 8}  # of a number; all others 2
# The files of an exact count may hold a tied head twice or some float32 tensors.
INDEX_TOLERANCE = 0.03
FEWEST_BITS = 2  # of a weight, in any published quantization


def check_name(shape: ModelShape, name: str) -> ModelShape:
    """`shape` with a doubt where the model's `name` says another size, and with a range that fits
    the name where it was rough."""
    size = named_size(name)
    if size is None:
        return shape
    if not fits_total(shape, size):
        shape = _contradicted(shape, f"its name says {size.label}", *_span(size, shape))
    elif not fits_active(shape, size):
        active = f"{shape.active_parameters / 1e9:.3g} billion active for a token"
        reason = f"its name says {size.label}, the config counts {active}"
        count = shape.parameters
        shape = _with_doubt(shape, reason, shape.low or count, shape.high or count)
    elif shape.rough and size.totals:
        shape = narrowed(shape, *_span(size, shape))
    return shape


def check_index(shape: ModelShape, index: ShardIndex) -> ModelShape:
    """`shape` with the bytes of its files by their index, and a doubt where its count cannot take
    as many, or has other blocks."""
    blocks = [int(match[2]) for name in index.files if (match := language_block(name))]
    if blocks and max(blocks) + 1 < len(shape.blocks):
        reason = f"its index names {max(blocks) + 1} blocks, the config counts {len(shape.blocks)}"
        share = (max(blocks) + 1) / len(shape.blocks)
        low, high = shape.low or shape.parameters, shape.high or shape.parameters
        shape = _with_doubt(shape, reason, round(low * share), high)
    size = index.metadata.get("total_size")
    if not isinstance(size, (int, float)) or isinstance(size, bool) or not 0 < size < 1e15:
        return shape
    return _check_bytes(shape, int(size))


def _check_bytes(shape: ModelShape, stored_bytes: int) -> ModelShape:
    shape = replace(shape, stored_bytes=stored_bytes)
    low, high = _counts_of(stored_bytes, shape)
    if not low <= shape.parameters <= high:
        reason = f"its index counts {stored_bytes / 1e9:.3g} GB of tensors"
        return _contradicted(shape, reason, low, high)
    return narrowed(shape, low, high) if shape.rough else shape


def _counts_of(stored_bytes: int, shape: ModelShape) -> tuple[float, float]:
    """How many parameters such files may hold, without the layers ahead."""
    if shape.quantization:
        return stored_bytes / 2 * (
            1 - INDEX_TOLERANCE
        ) - shape.ahead, stored_bytes * 8 / FEWEST_BITS
    count = stored_bytes / DTYPE_BYTES.get(shape.dtype, 2) - shape.ahead
    twice = shape.embedding if shape.tied else 0  # a tied head may be stored as well
    return count * (1 - INDEX_TOLERANCE) - twice, count * (1 + INDEX_TOLERANCE)


def narrowed(shape: ModelShape, low: float, high: float) -> ModelShape:
    """A rough `shape` with the part of its range that is between `low` and `high`; these where
    nothing is left of it."""
    least, most = max(low, shape.low or 0), min(high, shape.high or high)
    if least > most:
        least, most = low, high
    return replace(shape, low=round(least), high=round(most))


def _span(size: NamedSize, shape: ModelShape) -> tuple[float, float]:
    """The totals in a name, of a model that also has towers."""
    towers = sum(shape.towers.values())
    return min(low for low, _ in size.totals), max(high for _, high in size.totals) + towers


def _contradicted(shape: ModelShape, reason: str, low: float, high: float) -> ModelShape:
    """`shape` with a doubt; its range has both the other evidence and its own count."""
    count = shape.parameters
    reason += f", the config counts {count / 1e9:.3g} billion parameters"
    return _with_doubt(shape, reason, round(min(low, count)), round(max(high, count)))


def _with_doubt(shape: ModelShape, reason: str, low: int, high: int) -> ModelShape:
    return replace(shape, rough=(*shape.rough, reason), low=low, high=high)
