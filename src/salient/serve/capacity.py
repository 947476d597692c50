"""How many sequences the server runs at once: as many as memory holds, up to a few dozen."""

from collections.abc import Sequence
from pathlib import Path

from salient.core.devices import find_device, free_memory
from salient.core.errors import ModelError, ResourceError
from salient.runtime.load_engine import LONGEST_DEFAULT
from salient.shapes.resolve import shape_of_folder

MAX_SEQUENCES = 32  # a step of more costs more than it gains on the machines of this engine
UNKNOWN_SHAPE = 8  # sequences if the size of the model's cache is unknown
SHARE = 0.6  # of the free memory before the weights are loaded
KV_BYTES = 2  # of an element of the KV cache (runtime/load_engine.py)


def sequences(folders: Sequence[Path], context: int | None, device: str) -> int:
    """How many sequences of `context` tokens (default: the engine's) fit in memory.

    folders: the models to load, the served one first. Raises ResourceError if no sequence fits.
    """
    try:
        shape = shape_of_folder(folders[0])
    except ModelError:  # a family that plan does not know may still run
        return UNKNOWN_SHAPE
    length = context or min(shape.context or LONGEST_DEFAULT, LONGEST_DEFAULT)
    sequence = max(1, shape.values_per_token * length * KV_BYTES)
    weights = sum(p.stat().st_size for folder in folders for p in folder.glob("*.safetensors"))
    free = free_memory(find_device(device))
    room = free * SHARE - weights
    if room < sequence:
        raise ResourceError(
            f"The weights take {weights / 2**30:.1f} GiB, and one sequence of {length} tokens "
            f"{sequence / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free, of which the server "
            f"takes {SHARE:.0%}. Use a smaller --context-length, or free some memory."
        )
    return min(MAX_SEQUENCES, int(room // sequence))
