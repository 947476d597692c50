"""How many sequences a server runs at once: as many as memory holds, up to a few dozen."""

from collections.abc import Sequence
from pathlib import Path

from salient.core.devices import find_device, free_memory
from salient.core.errors import ModelError, ResourceError
from salient.runtime.load_engine import LONGEST_DEFAULT
from salient.shapes.resolve import shape_of_folder

MOST = 32  # a step of more takes longer than it gains on the machines that this engine is for
CAUTIOUS = 8  # where the model's cache cannot be counted
SHARE = 0.6  # of the memory that is free before the weights are there
KEPT_BYTES = 2  # of a number of keys and values (runtime.open.KEPT)


def sequences(folders: Sequence[Path], context: int | None, device: str) -> int:
    """How many sequences of `context` tokens (the engine's own default if None) fit in memory.

    folders: the models that are to be there, the served one first

    Raises ResourceError where not one does.
    """
    try:
        shape = shape_of_folder(folders[0])
    except ModelError:  # no family that plan knows: the engine may well run it
        return CAUTIOUS
    length = context or min(shape.context or LONGEST_DEFAULT, LONGEST_DEFAULT)
    each = max(1, shape.values_per_token * length * KEPT_BYTES)
    weights = sum(p.stat().st_size for folder in folders for p in folder.glob("*.safetensors"))
    room = _free(device) * SHARE - weights
    if room < each:
        raise ResourceError(
            f"The weights take {weights / 2**30:.1f} GiB, and one sequence of {length} tokens "
            f"{each / 2**30:.1f} GiB; {_free(device) / 2**30:.1f} GiB are free, of which the "
            f"server takes {SHARE:.0%}. Give a smaller --max-context, or free some memory."
        )
    return min(MOST, int(room // each))


def _free(device: str) -> int:
    """Bytes of free memory of the device."""
    found = find_device(device)
    return free_memory(found)
