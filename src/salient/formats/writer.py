"""Write files under temporary names and rename them when complete.

Pieces (one file a block) are written as the run goes; at the end `merge` strings them together into
shards by copying bytes, so that no shard is ever in memory.
"""

import contextlib
import errno
import json
import os
import shutil
import struct
from collections.abc import Generator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from salient.core.errors import ResourceError
from salient.core.model_files import INDEX, SINGLE
from salient.core.printable import printable

SHARD_BYTES = 5 * 10**9  # the Hub's usual shard


@contextlib.contextmanager
def disk_full_errors(folder: Path) -> Generator[None]:
    """Turn a full disk into a ResourceError: how much is free, and that the run can go on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
        ) or "No space left" in str(error)
        if not full:
            raise
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free / 2**20
        raise ResourceError(
            f"The disk of {folder} is full ({free:.0f} MiB free). Free some space and run the "
            "same command again: it resumes."
        ) from error


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write `tensors` to `path`, which appears only when it is complete and on disk."""
    partial = path.with_suffix(".tmp")
    with disk_full_errors(path.parent):
        try:
            save_file(
                {n: t.contiguous().cpu() for n, t in tensors.items()},
                partial,
                metadata={"format": "pt"},
            )
            sync(partial)
            partial.rename(path)
            path.chmod(0o644)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, which appears only when it is complete and on disk."""
    partial = path.with_name(path.name + ".tmp")
    with disk_full_errors(path.parent):
        try:
            partial.write_text(text, encoding="utf-8")
            partial.chmod(0o644)
            sync(partial)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, as `write_text` does."""
    write_text(path, printable(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def sync(path: Path) -> None:
    """Have the file or folder `path` on disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def merge(pieces: list[Path], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """String `pieces` together, in order, into shards with an index, or one file, in `folder`.

    A piece is never split; the pieces stay. Tensors are copied byte by byte.
    """
    shards: list[list[Path]] = [[]]
    for piece in pieces:
        if shards[-1] and sum(p.stat().st_size for p in (*shards[-1], piece)) > shard_bytes:
            shards.append([])
        shards[-1].append(piece)
    single = len(shards) == 1
    weight_map: dict[str, str] = {}
    total = 0
    for number, parts in enumerate(shards, 1):
        name = SINGLE if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        names, size = _concatenate(parts, folder / name)
        weight_map |= dict.fromkeys(names, name)
        total += size
    if not single:
        write_json(
            folder / INDEX,
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        )


def _concatenate(parts: list[Path], target: Path) -> tuple[list[str], int]:
    """One safetensors file from several: tensor names and data bytes.

    The format: 8 bytes of header length, a JSON header, the data.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    starts: list[int] = []
    offset = 0
    for part in parts:
        with part.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            header[name] = entry | {"data_offsets": [begin + offset, end + offset]}
        starts.append(8 + length)
        offset += part.stat().st_size - 8 - length
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = target.with_suffix(".tmp")
    with disk_full_errors(target.parent):
        try:
            with partial.open("wb") as out:
                out.write(struct.pack("<Q", len(text)) + text)
                for part, start in zip(parts, starts, strict=True):
                    with part.open("rb") as file:
                        file.seek(start)
                        shutil.copyfileobj(file, out, 2**22)
            sync(partial)
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
    return [name for name in header if name != "__metadata__"], offset
