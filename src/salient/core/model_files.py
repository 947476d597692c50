"""The contents of a model folder, from its JSON files and the headers of its safetensors.

No tensor is read and torch is not imported, so that a plan answers at once.
"""

import json
import struct
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from .errors import ModelError
from .records import is_list, is_object

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Bytes of an element, by safetensors' name of its type (safetensors 0.8, `Dtype`).
ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
LONGEST_NAME = 256  # of a file
LARGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself


@dataclass(frozen=True)
class StoredTensor:
    """One tensor: dtype by safetensors' name; bytes start:end of the file are its data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    end: int

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.end - self.start


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises ModelError if it is missing or invalid."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} has no {path.name}: it is not a Hugging Face model folder."
        ) from None
    except (ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}). Fetch the file again.") from error
    if not is_object(value):
        raise ModelError(
            f"{path} contains a {type(value).__name__}, not a JSON object. Download it again."
        )
    return value


def as_object(value: object) -> dict[str, Any]:
    """`value` if it is a JSON object, {} for anything else."""
    return value if is_object(value) else {}


def as_list(value: object) -> list[Any]:
    """`value` if it is a list, [] for anything else."""
    return value if is_list(value) else []


@dataclass(frozen=True)
class ShardIndex:
    """The index of a folder's shards.

    files: tensor -> file
    outside: tensor -> what the index has in place of a file of the folder
    """

    files: dict[str, str]
    outside: dict[str, object]
    metadata: dict[str, Any]

    @property
    def shards(self) -> dict[str, list[str]]:
        """File -> its tensors, sorted by file."""
        shards: dict[str, list[str]] = {file: [] for file in sorted(set(self.files.values()))}
        for name, file in self.files.items():
            shards[file].append(name)
        return shards


def read_index(folder: Path) -> ShardIndex | None:
    """The index of `folder`, None if it has none. Raises ModelError for a damaged one."""
    if not (folder / INDEX).exists():
        return None
    index = read_json(folder / INDEX)
    files = as_object(index.get("weight_map"))
    if not files:
        raise ModelError(f"{INDEX} in {folder} names no tensor. Fetch the file again.")
    outside = {name: file for name, file in files.items() if not _is_file_name(file)}
    inside = {name: file for name, file in files.items() if name not in outside}
    return ShardIndex(inside, outside, as_object(index.get("metadata")))


def _is_file_name(file: object) -> bool:
    return isinstance(file, str) and Path(file).name == file and 0 < len(file) < LONGEST_NAME


def weight_files(folder: Path) -> dict[str, Path]:
    """Each tensor's file. Raises ModelError as `stored_tensors`."""
    return {name: tensor.path for name, tensor in stored_tensors(folder).items()}


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a model folder, by the index of shards or the single file's own header.

    Raises ModelError for a missing, truncated or contradictory file.
    """
    if index := read_index(folder):
        return _indexed(folder, index)
    if (folder / SINGLE).exists():
        return read_header(folder / SINGLE)
    pickles = sorted(p.name for p in folder.glob("*.bin"))
    other = (
        f"; {pickles[0]!r} is a pickle, which Salient does not open: convert it to safetensors"
        if pickles
        else ""
    )
    raise ModelError(f"{folder} has neither {SINGLE} nor {INDEX}{other}.")


def _indexed(folder: Path, index: ShardIndex) -> dict[str, StoredTensor]:
    for file in index.outside.values():
        raise ModelError(
            f"{INDEX} names {file!r}, which is no file in its own folder. Do not trust this model "
            "folder."
        )
    missing = [file for file in index.shards if not (folder / file).is_file()]
    if missing:
        raise ModelError(
            f"{INDEX} names {missing[0]!r}, which is not in {folder} ({len(missing)} missing). "
            "Fetch the missing shards."
        )
    headers = {file: read_header(folder / file) for file in index.shards}
    for name, file in index.files.items():
        if name not in headers[file]:
            raise ModelError(
                f"{INDEX} lists {name!r} in {file}, which lacks it. Download that shard again."
            )
    return {name: headers[file][name] for name, file in index.files.items()}


def missing_tensors(
    needed: Mapping[str, Iterable[str]], names: Container[str]
) -> list[tuple[str, str]]:
    """(module, suffix) of each tensor of a quantized linear that is not among `names`.

    needed: the suffixes of the tensors that each module needs
    """
    pairs = ((module, suffix) for module, suffixes in needed.items() for suffix in suffixes)
    return [pair for pair in pairs if ".".join(pair) not in names]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file. Raises ModelError for a truncated or damaged one."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            length = struct.unpack("<Q", file.read(8))[0]
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {name: _stored(name, row, path, 8 + length, size) for name, row in header.items()}
    except (OSError, ValueError, struct.error, TypeError, AttributeError, KeyError) as error:
        raise ModelError(
            f"{path.name} in {path.parent} cannot be read ({error}). The file is truncated or "
            "damaged: fetch it again."
        ) from error
    except RecursionError:
        raise ModelError(f"{path.name} in {path.parent} has no header of safetensors.") from None


def _stored(name: str, row: dict[str, Any], path: Path, base: int, size: int) -> StoredTensor:
    dtype, shape, (start, end) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
        raise ValueError(f"{name!r} has a shape or place that is no count")
    if end < start or base + end > size:
        raise ValueError(f"{name!r} ends at byte {base + end} of a file of {size}")
    bytes_each = ELEMENT_BYTES.get(dtype)
    if bytes_each and prod(shape) * bytes_each != end - start:
        raise ValueError(f"{name!r} is {dtype} {list(shape)} in {end - start} bytes")
    return StoredTensor(name, dtype, shape, path, base + start, base + end)
