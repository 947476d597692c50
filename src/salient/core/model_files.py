"""The contents of a model folder, from its JSON files and the headers of its safetensors.

No tensor is read and torch is not imported, so that a plan answers at once.
"""

import json
import struct
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, cast

from .errors import ModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Bytes of an element, by safetensors' name of its type (safetensors 0.8, `Dtype`).
ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
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
    if not isinstance(value, dict):
        raise ModelError(
            f"{path} contains a {type(value).__name__}, not a JSON object. Download it again."
        )
    return value


def as_object(value: object) -> dict[str, Any]:
    """`value` if it is a JSON object, {} for anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """`value` if it is a list, [] for anything else."""
    return cast("list[Any]", value) if isinstance(value, list) else []


def weight_files(folder: Path) -> dict[str, Path]:
    """Each tensor's file, by the index of shards or the single file's own header.

    Raises ModelError for a missing, truncated or contradictory file.
    """
    if (folder / INDEX).exists():
        return _indexed(folder)
    if (folder / SINGLE).exists():
        return dict.fromkeys(read_header(folder / SINGLE), folder / SINGLE)
    pickles = sorted(p.name for p in folder.glob("*.bin"))
    other = (
        f"; {pickles[0]!r} is a pickle, which Salient does not open: convert it to safetensors"
        if pickles
        else ""
    )
    raise ModelError(f"{folder} has neither {SINGLE} nor {INDEX}{other}.")


def _indexed(folder: Path) -> dict[str, Path]:
    index = read_json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ModelError(f"{INDEX} in {folder} names no tensor. Fetch the file again.")
    outside = [s for s in index.values() if not isinstance(s, str) or Path(s).name != s]
    if outside:
        raise ModelError(
            f"{INDEX} names {outside[0]!r}, which is no file in its own folder. Do not trust "
            "this model folder."
        )
    missing = sorted({shard for shard in index.values() if not (folder / shard).is_file()})
    if missing:
        raise ModelError(
            f"{INDEX} names {missing[0]!r}, which is not in {folder} ({len(missing)} missing). "
            "Fetch the missing shards."
        )
    files = {name: folder / shard for name, shard in index.items()}
    headers = {path: read_header(path) for path in set(files.values())}
    lost = next((name for name, path in files.items() if name not in headers[path]), None)
    if lost:
        raise ModelError(
            f"{INDEX} lists {lost!r} in {files[lost].name}, which lacks it. Download that "
            "shard again."
        )
    return files


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor of a model folder, from headers alone. Raises ModelError as `weight_files`."""
    files = weight_files(folder)
    headers = {path: read_header(path) for path in set(files.values())}
    return {name: headers[path][name] for name, path in files.items()}


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
