"""Frozen dataclasses to JSON and back. Input may be anybody's file: nothing is trusted.

`to_json` gives dicts, lists and scalars with the fields' names (or `metadata["key"]`) as keys, in
their order. `from_json` takes a dataclass from them by its annotations, which may be int, float,
str, bool, None, unions, Literal, tuples, lists, dicts with text keys, other dataclasses, and
`Annotated` with `Bounds`.
Unknown keys are ignored, so that an older Salient reads a newer file.
"""

import dataclasses
import math
import types
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    TypeGuard,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from .errors import CheckpointError, brief

Record = TypeVar("Record")
LARGEST = 2**63  # of a whole number


@dataclass(frozen=True)
class Bounds:
    """Limits of a number, which must be finite, or of the length of a text or list."""

    low: float = -math.inf
    high: float = math.inf


Count = Annotated[int, Bounds(0)]
Positive = Annotated[int, Bounds(1)]
Name = Annotated[str, Bounds(0, 4096)]


class FormatFault(CheckpointError):
    """JSON that is not a record: `where` is the path of the field, `why` the fault."""

    def __init__(self, where: str, why: str):
        super().__init__(f"{where or 'the document'} {why}.")
        self.where, self.why = where, why


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether `value` is a JSON object."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Any]]:
    """Whether `value` is a list."""
    return isinstance(value, list)


def is_sequence(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether `value` is a list or a tuple."""
    return isinstance(value, (list, tuple))


def to_json(value: Any) -> Any:
    """`value`, a record or anything in one, as JSON's dicts, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {_key(field): to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in cast("Mapping[str, Any]", value).items()}
    if is_sequence(value):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[Record], value: object, where: str = "") -> Record:
    """The record of class `kind` in `value`. Raises FormatFault naming the field."""
    return _read(kind, value, where)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _key(field: "dataclasses.Field[Any]") -> str:
    """The key of `field` in JSON: its name, or `metadata={"key": ...}`."""
    return field.metadata.get("key", field.name)


def _read(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin is Annotated:
        inner, *bounds = get_args(kind)
        return _bounded(_read(inner, value, where), bounds, where)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(kind), value, where)
    if origin is Literal:
        if value not in get_args(kind):
            raise FormatFault(where, f"is {brief(value)}, not one of {', '.join(get_args(kind))}")
        return value
    if origin is dict:
        items = _of_type(value, dict, where).items()
        return {str(key): _read(get_args(kind)[1], item, f"{where}.{key}") for key, item in items}
    if origin in (list, tuple):
        return _items(kind, origin, value, where)
    if dataclasses.is_dataclass(kind):
        return _record(kind, value, where)
    if kind is float:
        return _number(value, where)
    return value if kind is object else _of_type(value, kind, where)


def _record(kind: Any, value: Any, where: str) -> Any:
    members = _of_type(value, dict, where)
    values = {}
    for field in dataclasses.fields(kind):
        key = _key(field)
        path = f"{where}.{key}".lstrip(".")
        if key in members:
            values[field.name] = _read(_hints(kind)[field.name], members[key], path)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise FormatFault(path, "is missing")
    return kind(**values)


def _items(kind: Any, origin: Any, value: Any, where: str) -> Any:
    arguments = get_args(kind)
    members = _of_type(value, list, where)
    if origin is list or arguments[1:] == (...,):
        arguments = arguments[:1] * len(members)
    if len(members) != len(arguments):
        raise FormatFault(where, f"has {len(members)} entries, not {len(arguments)}")
    pairs = enumerate(zip(arguments, members, strict=True))
    items = [_read(each, item, f"{where}.{i}") for i, (each, item) in pairs]
    return items if origin is list else tuple(items)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds[:-1]:
        try:
            return _read(kind, value, where)
        except FormatFault:
            continue
    return _read(kinds[-1], value, where)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise FormatFault(where, f"is {str(value)[:40]!r}, not a number")
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise FormatFault(where, f"is {brief(value)}, beyond the largest number")
    return value


def _of_type(value: Any, kind: type, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise FormatFault(where, f"is {type(value).__name__}, not {kind.__name__}")
    return value


def _bounded(value: Any, bounds: list[Any], where: str) -> Any:
    for bound in (bound for bound in bounds if isinstance(bound, Bounds)):
        size = len(value) if isinstance(value, Sized) else value
        finite = abs(size) < LARGEST if isinstance(size, int) else math.isfinite(size)
        if not (finite and bound.low <= size <= bound.high):
            raise FormatFault(where, f"is {brief(size)}, not from {bound.low} to {bound.high}")
    return value
