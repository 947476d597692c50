"""The contents of a model folder, from its JSON files and the headers of its safetensors.

No tensor is read and torch is not imported, so that a plan answers at once.
"""

import re
import struct
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from .errors import ModelError, brief, one_line
from .input_files import MIB, UnfitFile, most_bytes, open_input, parse_json, read_input
from .records import is_list, is_object

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
# Bytes of an element, by safetensors' name of its type (safetensors 0.8, `Dtype`).
ELEMENT_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4,
    "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
# Weights in files that Salient does not read, by their names: what they are, and what to do.
OTHER_WEIGHTS = (
    (r"\.incomplete$", "of an unfinished download: finish it"),
    (r"-\d+-of-\d+\.safetensors$", f"without {INDEX}, which names their tensors: add it"),
    (r"^adapter_model\.", "of an adapter: give the base model, with --adapter FOLDER"),
    (
        r"^consolidated.*\.safetensors$",
        f"in Mistral's own layout: use the folder in Transformers' layout, with {SINGLE}",
    ),
    (
        r"^model\.[^.]+\.safetensors$",
        f"a variant: rename it to {SINGLE}, or load it with Transformers (variant=...) and "
        "save_pretrained it",
    ),
    (r"\.safetensors$", f"under another name: rename it to {SINGLE} if it is the whole model"),
    (r"\.gguf$", "for llama.cpp (GGUF): give the model that it was made from"),
    (
        r"\.(bin|pt|pth|ckpt|pkl)$",
        "a pickle, which Salient does not open: convert it to safetensors",
    ),
    (r"\.(h5|msgpack|onnx|npz|tflite)$", "of another framework: convert it to safetensors"),
)
# How to get 16-bit weights, by the `quant_method` of config.json.
_DEQUANTIZERS = {
    "fp8": "FineGrainedFP8Config(dequantize=True)",
    "mxfp4": "Mxfp4Config(dequantize=True)",
    "compressed-tensors": "CompressedTensorsConfig(dequantize=True)",
    "bitsandbytes": "model.dequantize() after loading",
}
_REMOVE_ONE = (
    "Readers differ in which they use. Keep the files that belong to config.json, and move the "
    "others, with their index, out of the folder."
)
_STRETCH = 2**20  # bytes of a tensor that are compared at once
LONGEST_NAME = 256  # of a file
_POINTER = 256  # bytes, of which a git-lfs pointer has about 130
LARGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself
MOST_TENSORS = 500_000  # of a folder; Kimi K2 has 210,000
MOST_IN_A_FILE = 100_000
LONGEST_TENSOR_NAME = 512
MOST_AXES = 16


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
        content = read_input(path, most_bytes(path.name) or 16 * MIB)
        _check_content(path, content[:_POINTER])
        value = parse_json(content)
    except FileNotFoundError:
        raise ModelError(
            f"{path.parent} has no {path.name}: it is not a Hugging Face model folder."
        ) from None
    except UnfitFile as error:
        raise ModelError(f"{path} {error.reason}. Do not trust this folder.") from error
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}). Fetch the file again.") from error
    if not is_object(value):
        raise ModelError(
            f"{path} contains a {type(value).__name__}, not a JSON object. Download it again."
        )
    return value


def sixteen_bit_remedy(method: object) -> str:
    """What to do about a model that is quantized with `method`."""
    way = _DEQUANTIZERS.get(str(method))
    also = (
        f", or load it in 16 bits with Transformers ({way}) and save_pretrained it" if way else ""
    )
    return f"Give the 16-bit model that it was made from{also}."


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
    if not files or len(files) > MOST_TENSORS:
        count = f"{len(files)} tensors; at most {MOST_TENSORS} fit" if files else "no tensor"
        raise ModelError(f"{INDEX} in {folder} names {count}. Fetch the file again.")
    outside = {name: file for name, file in files.items() if not _is_file_name(file)}
    inside = {name: file for name, file in files.items() if name not in outside}
    return ShardIndex(inside, outside, as_object(index.get("metadata")))


def _is_file_name(file: object) -> bool:
    if not isinstance(file, str) or Path(file).name != file:
        return False
    return file.endswith(".safetensors") and len(file) < LONGEST_NAME


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
    raise ModelError(f"{folder} has neither {SINGLE} nor {INDEX}{_other_weights(folder)}.")


def _other_weights(folder: Path) -> str:
    """What weights `folder` has in place of those that Salient reads, as a part of a sentence."""
    places = (folder, folder / ".cache/huggingface/download")
    names = sorted(p.name for place in places if place.is_dir() for p in place.iterdir())
    parts: list[str] = []
    for pattern, what in OTHER_WEIGHTS:
        some = [name for name in names if re.search(pattern, name)]
        names = [name for name in names if name not in some]
        if some:
            more = f" and {len(some) - 1} more are" if some[1:] else " is"
            parts.append(f"; {some[0]!r}{more} {what}")
    if not parts:
        inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
        parts = [f"; its folder {name!r} has a config.json: give that" for name in inner[:1]]
    return "".join(parts)


def _indexed(folder: Path, index: ShardIndex) -> dict[str, StoredTensor]:
    for file in index.outside.values():
        raise ModelError(
            f"{INDEX} names {brief(file)}, which is no safetensors in its own folder. Do not trust "
            "this model folder."
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
    tensors = {name: headers[file][name] for name, file in index.files.items()}
    # Readers take all tensors of the shards, also those that the index omits.
    for header in headers.values():
        for name, other in header.items():
            _check_equal(folder, tensors.setdefault(name, other), other)
    if SINGLE not in headers and (folder / SINGLE).is_file():
        _check_single(folder, tensors)
    return tensors


def _check_single(folder: Path, tensors: dict[str, StoredTensor]) -> None:
    """Refuse a single file that is not the model of the index: readers differ in which they use."""
    single = read_header(folder / SINGLE)
    if odd := sorted(single.keys() ^ tensors.keys()):
        where = "only the single file has" if odd[0] in single else "only the indexed files have"
        raise ModelError(
            f"{folder} holds two models: {SINGLE}, and {INDEX} with its "
            f"{next(iter(tensors.values())).path.name}; {where} {odd[0]!r}. {_REMOVE_ONE}"
        )
    for name, other in single.items():
        _check_equal(folder, tensors[name], other)


def _check_equal(folder: Path, one: StoredTensor, other: StoredTensor) -> None:
    """Refuse a tensor that two files store differently."""
    if one is other or _same_content(one, other):
        return
    forms = [f"{tensor.dtype} {list(tensor.shape)}" for tensor in (one, other)]
    raise ModelError(
        f"{folder} stores {one.name!r} twice: {one.path.name} (of {INDEX}, {forms[0]}) and "
        f"{other.path.name} ({forms[1]}) do not agree"
        f"{' in its values' if forms[0] == forms[1] else ''}. {_REMOVE_ONE}"
    )


def _same_content(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors are equal, by their first, middle and last stretch of 1 MiB."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    starts = {0, max(one.bytes - _STRETCH, 0) // 2, max(one.bytes - _STRETCH, 0)}
    with one.path.open("rb") as first, other.path.open("rb") as second:
        for start in starts:
            first.seek(one.start + start)
            second.seek(other.start + start)
            size = min(_STRETCH, one.bytes - start)
            if first.read(size) != second.read(size):
                return False
    return True


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
        with open_input(path) as file:
            _check_content(path, file.read(_POINTER))
            file.seek(0)
            size = path.stat().st_size
            length = struct.unpack("<Q", file.read(8))[0]
            if not 2 <= length <= min(LARGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            text = file.read(length)
        count = text.count(b'"data_offsets"')
        if count > MOST_IN_A_FILE:
            raise ValueError(f"it names {count} tensors; at most {MOST_IN_A_FILE} fit")
        header = parse_json(text)
        header.pop("__metadata__", None)
        return {name: _stored(name, row, path, 8 + length, size) for name, row in header.items()}
    except UnfitFile as error:
        raise ModelError(
            f"{path.name} in {path.parent} {error.reason}. Do not trust this folder."
        ) from error
    except (OSError, ValueError, struct.error, TypeError, AttributeError, KeyError) as error:
        raise ModelError(
            f"{path.name} in {path.parent} cannot be read ({one_line(error)}). The file is "
            "truncated or damaged: fetch it again."
        ) from error


def _check_content(path: Path, head: bytes) -> None:
    """Refuse a file that stands in for another."""
    if head.startswith(b"version https://git-lfs"):
        size = "".join(re.findall(r"\nsize (\d+)", head.decode(errors="replace")))
        raise ModelError(
            f"{path.name} in {path.parent} is a git-lfs pointer (to {size or '?'} bytes), not the "
            "file: run `git lfs pull` there."
        )
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise ModelError(
            f"{path.name} in {path.parent} is a web page, not the file: a login or an error was "
            "saved in its place. Fetch the file again."
        )


def _stored(name: str, row: dict[str, Any], path: Path, base: int, size: int) -> StoredTensor:
    if len(name) > LONGEST_TENSOR_NAME:
        raise ValueError(f"a tensor's name has {len(name)} letters: {name[:40]!r} ...")
    dtype, shape, (start, end) = row["dtype"], tuple(row["shape"]), row["data_offsets"]
    if not isinstance(dtype, str) or len(shape) > MOST_AXES:
        raise ValueError(f"{name!r} has {len(shape)} axes of type {str(dtype)[:40]!r}")
    if not all(type(n) is int and n >= 0 for n in (*shape, start, end)):
        raise ValueError(f"{name!r} has a shape or place that is no count")
    if end < start or base + end > size:
        raise ValueError(f"{name!r} ends at byte {base + end} of a file of {size}")
    bytes_each = ELEMENT_BYTES.get(dtype)
    if bytes_each and prod(shape) * bytes_each != end - start:
        raise ValueError(f"{name!r} is {dtype} {list(shape)} in {end - start} bytes")
    return StoredTensor(name, dtype, shape, path, base + start, base + end)
