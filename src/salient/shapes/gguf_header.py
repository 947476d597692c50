"""The header of a GGUF file: its metadata, and the name, type and size of each tensor.

The layout is that of llama.cpp's docs/gguf.md, versions 2 and 3. Arrays (tokenizers) are skipped;
no tensor is read. Every length is checked, as anybody may have written the file.
"""

import json
import struct
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

from salient.core.errors import ModelError, one_line
from salient.core.input_files import UnfitFile, open_input

NAMES: dict[str, Any] = json.loads(
    Path(__file__).with_name("gguf_names.json").read_text(encoding="utf-8")
)
MOST_ENTRIES, MOST_ITEMS, LONGEST_TEXT = 100_000, 20_000_000, 2**24
# formats of struct, by GGUF's number of a type of metadata
_SCALARS = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"
}  # fmt: skip
_TEXT, _ARRAY = 8, 9
Scalar = str | int | float | bool


@dataclass(frozen=True)
class GgufTensor:
    """A tensor. kind: its type, "Q4_K"; shape: [outputs, inputs], experts first"""

    name: str
    kind: str
    shape: tuple[int, ...]
    bytes: int


@dataclass(frozen=True)
class GgufHeader:
    metadata: dict[str, Scalar]
    tensors: tuple[GgufTensor, ...]


def read_gguf_header(path: Path) -> GgufHeader:
    """Raises ModelError for a file that is none, or is damaged."""
    try:
        with open_input(path) as file:
            if file.read(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            version = _number(file, "I")
            if version not in (2, 3):
                raise ValueError(f"its version is {version}, not 2 or 3")
            tensors, entries = _number(file, "Q"), _number(file, "Q")
            if tensors > MOST_ENTRIES or entries > MOST_ENTRIES:
                raise ValueError(f"{tensors} tensors and {entries} entries; {MOST_ENTRIES} fit")
            metadata = {key: value for key, value in (_entry(file) for _ in range(entries)) if key}
            return GgufHeader(metadata, tuple(_tensor(file) for _ in range(tensors)))
    except UnfitFile as error:
        raise ModelError(f"{path} {error.reason}. Do not trust this file.") from error
    except (OSError, ValueError, struct.error) as error:
        raise ModelError(
            f"{path} cannot be read as GGUF ({one_line(error)}). Fetch the file again."
        ) from error


def _number(file: BufferedReader, form: str) -> Any:
    size = struct.calcsize(f"<{form}")
    return struct.unpack(f"<{form}", file.read(size))[0]


def _text(file: BufferedReader) -> str:
    length = _number(file, "Q")
    if length > LONGEST_TEXT:
        raise ValueError(f"a text of {length} bytes")
    content = file.read(length)
    if len(content) < length:
        raise ValueError("it ends within a text")
    return content.decode("utf-8", errors="replace")


def _entry(file: BufferedReader) -> tuple[str, Scalar]:
    """A key and its value; no key for an array."""
    key, kind = _text(file), _number(file, "I")
    if kind == _TEXT:
        return key, _text(file)
    if kind != _ARRAY:
        return key, _number(file, _form(kind))
    item, count = _number(file, "I"), _number(file, "Q")
    if count > MOST_ITEMS:
        raise ValueError(f"{key[:40]!r} has {count} items; {MOST_ITEMS} fit")
    if item == _TEXT:
        for _ in range(count):
            file.seek(_number(file, "Q"), 1)
        return "", ""
    numbers = _numbers(file, _form(item), count)
    return (key, max(numbers)) if numbers else ("", "")


def _numbers(file: BufferedReader, form: str, count: int) -> tuple[int, ...]:
    """The items of a short array of whole numbers (one a block); () for any other."""
    size = struct.calcsize(f"<{form}") * count
    if count > MOST_ENTRIES or form in "fd?":
        file.seek(size, 1)
        return ()
    return struct.unpack(f"<{count}{form}", file.read(size))


def _form(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"metadata of type {kind}")
    return _SCALARS[kind]


def _tensor(file: BufferedReader) -> GgufTensor:
    name, axes = _text(file), _number(file, "I")
    if axes > 8:
        raise ValueError(f"{name[:40]!r} has {axes} axes")
    shape = tuple(_number(file, "Q") for _ in range(axes))[::-1]
    number, _offset = _number(file, "I"), _number(file, "Q")
    row = NAMES["types"].get(str(number))
    if row is None:
        raise ValueError(f"{name[:40]!r} is of type {number}, which is not known here")
    kind, size, weights = row
    return GgufTensor(name, kind, shape, prod(shape) // weights * size)
