"""Bounds of a config's counts, checked before any library builds what it describes.

A number of layers, heads or experts makes as many Python objects, whatever the files hold: a config
of 10^9 layers would keep a machine busy for good. Imports no torch.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from salient.core.errors import ModelError, brief
from salient.core.model_files import StoredTensor
from salient.core.records import is_list, is_object

from .config_reader import LARGEST, MOST_LAYERS

MOST_PARTS = 65_536  # heads of a layer, experts of a layer
MOST_VALUES = 100_000  # of a list, a table or a text
DEEPEST = 32
_AT_MOST = f"at most {MOST_VALUES} fit. Fetch the file again."
LAYERS = re.compile(r"(^|_)(layers?|depths?|blocks|hidden_layers)$|^n_layer|_layers_")
PARTS = re.compile(r"(^|_)(heads?|experts)(_kv)?$")
SIZES = re.compile(r"(_size|_dim|_rank|_width|^d_model|^n_embd|^n_inner|_embeddings|_groups)$")
# Counts that may well be in the files of a small model, whose config keeps a class's defaults.
LAYERS_AT_LEAST, PARTS_AT_LEAST = 256, 1024


def check_bounds(
    config: Mapping[str, Any],
    source: str = "config.json",
    tensors: Mapping[str, StoredTensor] | None = None,
) -> None:
    """Refuse counts that no model has, or far more than `tensors`, if they are known, can hold.

    Raises ModelError naming the key, its value and what fits.
    """
    most_layers, most_parts, why = MOST_LAYERS, MOST_PARTS, ""
    if tensors:
        widest = max(max(tensor.shape, default=1) for tensor in tensors.values())
        most_layers = min(MOST_LAYERS, max(LAYERS_AT_LEAST, len(tensors)))
        most_parts = min(MOST_PARTS, max(PARTS_AT_LEAST, len(tensors), widest))
        why = f": the files hold {len(tensors)} tensors"
    for path, key, value in _values(config):
        numbers = value if is_list(value) else [value]
        for pattern, most in ((LAYERS, most_layers), (PARTS, most_parts), (SIZES, LARGEST)):
            if pattern.search(key) and any(_exceeds(number, most) for number in numbers):
                reason = why if most not in (LARGEST, MOST_LAYERS, MOST_PARTS) else ""
                raise ModelError(
                    f"{source}: {path} is {brief(value)}, but only a whole number from 1 to {most} "
                    f"fits{reason}. Correct config.json, or fetch it again."
                )
        if (is_list(value) or isinstance(value, str)) and len(value) > MOST_VALUES:
            raise ModelError(f"{source}: {path} has {len(value)} values; {_AT_MOST}")
        longest = max((len(part) for part in numbers if isinstance(part, str)), default=0)
        if longest > MOST_VALUES:
            raise ModelError(f"{source}: {path} has a text of {longest} letters; {_AT_MOST}")


def _exceeds(value: object, most: int) -> bool:
    return isinstance(value, (int, float)) and value > most


def _values(
    value: Mapping[str, Any], path: str = "", depth: int = 0
) -> Iterator[tuple[str, str, Any]]:
    """(path, key, value) of each key that holds no section, at any depth."""
    if depth > DEEPEST:
        raise ModelError(
            f"config.json has more than {DEEPEST} sections in each other: {path[:80]}."
        )
    for key, inner in value.items():
        if is_object(inner):
            yield from _values(inner, f"{path}{key}.", depth + 1)
        else:
            yield f"{path}{key}", str(key), inner
