"""Checkpoint formats: QuantizedWeight <-> named tensors on disk.

Each format is one module with the same four functions: `pack`, `unpack`, `config` and
`read_config`. The table imports no torch; `load_format` brings the module in.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from salient.core.errors import CheckpointError


@dataclass(frozen=True)
class Format:
    """A row of the table: where the code is and what the format's config calls itself."""

    name: str
    module: str
    quant_method: str
    suffix: str  # the tensor whose presence marks a quantized module


FORMATS = {
    "awq": Format("awq", "autoawq", "awq", "qweight"),
    "compressed-tensors": Format(
        "compressed-tensors", "compressed_tensors", "compressed-tensors", "weight_packed"
    ),
}


def find_format(name: str) -> Format:
    """The format called `name`. Raises CheckpointError listing the known ones."""
    if name not in FORMATS:
        raise CheckpointError(f"Unknown format {name!r}. Known formats: {', '.join(FORMATS)}.")
    return FORMATS[name]


def load_format(name: str) -> ModuleType:
    """The module that packs and unpacks the format called `name`."""
    return import_module(f"salient.formats.{find_format(name).module}")
