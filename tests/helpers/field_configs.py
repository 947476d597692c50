"""The released configs of tests/plan/field, and the same with a key deleted or renamed."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from salient.core.errors import ModelError
from salient.shapes.from_config import read_shape
from salient.shapes.model_shape import ModelShape
from salient.shapes.named_size import model_name
from salient.shapes.size_evidence import check_name

FIELD = Path(__file__).parents[1] / "plan" / "field"
NAMES = sorted(path.stem for path in (FIELD / "configs").glob("*.json"))
# Objects that are no part of the shape.
OTHER = ("quantization_config", "quantization", "rope_scaling", "rope_parameters", "auto_map")
NEW_NAMES = ("", "{}_x", "my_{}")  # "": the key is deleted


@cache
def field_config(name: str) -> dict[str, Any]:
    """The config of a released model."""
    return json.loads((FIELD / "configs" / f"{name}.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class ChangedKey:
    """A config without one of its keys, or with the key under another name."""

    name: str
    path: tuple[str, ...]
    new: str

    def __str__(self) -> str:
        key = ".".join(self.path)
        return (
            f"{self.name}: {key} -> {self.new.format(self.path[-1])}"
            if self.new
            else (f"{self.name} without {key}")
        )

    @property
    def config(self) -> dict[str, Any]:
        config = copy.deepcopy(field_config(self.name))
        home = config
        for key in self.path[:-1]:
            home = home[key]
        value = home.pop(self.path[-1])
        if self.new:
            home[self.new.format(self.path[-1])] = value
        return config


def changed_keys(name: str) -> Iterator[ChangedKey]:
    """Every key of a released config, deleted and renamed."""
    for path in _paths(field_config(name)):
        for new in NEW_NAMES:
            yield ChangedKey(name, path, new)


def _paths(values: dict[str, Any], home: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        if key not in OTHER:
            yield (*home, key)
            if isinstance(value, dict):
                yield from _paths(value, (*home, key))


def named_shape(config: dict[str, Any], name: str) -> ModelShape:
    """The shape of `config` in a folder called `name`."""
    return check_name(read_shape(config, name), model_name(name))


def _counts(shape: ModelShape) -> tuple[int, int, int]:
    """Parameters, and the cache of a short and of a long sequence."""
    return shape.parameters, shape.cache_values(1_000), shape.cache_values(100_000)


@cache
def _true_counts(name: str) -> tuple[int, int, int]:
    return _counts(named_shape(field_config(name), name))


def is_silently_wrong(changed: ChangedKey) -> bool:
    """Whether it is counted otherwise than the released config, and neither refused, nor rough, nor
    with the key's default shown."""
    try:
        shape = named_shape(changed.config, changed.name)
    except ModelError:
        return False
    pairs = zip(_counts(shape), _true_counts(changed.name), strict=True)
    wrong = any(abs(one - other) > 0.005 * max(1, other) for one, other in pairs)
    return wrong and shape.exact and not any(changed.path[-1] in line for line in shape.assumed)
