"""Headers and indexes of safetensors that lie, are huge, or are no headers."""

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.hostile_values import INDEX, JSON_FILES, ODD, OTHER_FILES, WEIGHTS


def header(folder: Path, chance: random.Random) -> str:
    """A header of safetensors that lies, is huge, or is no header."""
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if not files or files[0].stat().st_size > 2**26:
        return "no weights"
    path = chance.choice(files)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    try:
        rows = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError):
        return f"{path.name} stays"
    kind = chance.choice(list(HEADERS))
    name = chance.choice(sorted(set(rows) - {"__metadata__"}) or ["x"])
    text, rest = HEADERS[kind](rows, name, data[8 + size :], chance)
    body = text if isinstance(text, bytes) else json.dumps(text).encode()
    length = chance.choice((10**9, 2**63, 2**64 - 1, 0, 1)) if kind == "length" else len(body)
    path.write_bytes(struct.pack("<Q", length) + body + rest)
    return f"{path.name} header {kind} {name[:40]}"


def _row(
    change: Callable[[dict[str, Any], random.Random], Any],
) -> Callable[..., tuple[Any, bytes]]:
    def changed(rows: Any, name: str, rest: bytes, chance: random.Random) -> tuple[Any, bytes]:
        row = rows.setdefault(name, {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]})
        change(row, chance)
        return rows, rest

    return changed


def _many(count: int) -> Callable[..., tuple[Any, bytes]]:
    def changed(rows: Any, name: str, rest: bytes, chance: random.Random) -> tuple[Any, bytes]:
        empty = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
        return {f"model.layers.{i}.x.weight": empty for i in range(count)} | rows, rest

    return changed


def _renamed(new: str) -> Callable[..., tuple[Any, bytes]]:
    def changed(rows: Any, name: str, rest: bytes, chance: random.Random) -> tuple[Any, bytes]:
        rows[new] = rows.pop(name, {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]})
        return rows, rest

    return changed


_DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
HEADERS: dict[str, Callable[..., tuple[Any, bytes]]] = {
    "length": lambda rows, name, rest, chance: (rows, rest),
    "million": _many(1_000_000),
    "thousands": _many(20_000),
    "deep": lambda rows, name, rest, chance: (_DEEP, rest),
    "list": lambda rows, name, rest, chance: ([rows], rest),
    "cut": lambda rows, name, rest, chance: (rows, rest[: len(rest) // 2]),
    "more": lambda rows, name, rest, chance: (rows, rest + bytes(1000)),
    "dtype": _row(lambda row, chance: row.update(dtype=chance.choice(ODD)())),
    "type": _row(lambda row, chance: row.update(
        dtype=chance.choice(("F8_E4M3", "I64", "BOOL", "F4", "F64", "U8", "C64")))),
    "shape": _row(lambda row, chance: row.update(shape=chance.choice(ODD)())),
    "shape of": _row(lambda row, chance: row.update(shape=[chance.choice(ODD)()])),
    "zeros": _row(lambda row, chance: row.update(shape=[0, 10**18], data_offsets=[0, 0])),
    "axes": _row(lambda row, chance: row.update(shape=[1] * 100_000)),
    "offsets": _row(lambda row, chance: row.update(data_offsets=chance.choice(ODD)())),
    "end": _row(lambda row, chance: row.update(data_offsets=[0, chance.choice(ODD)()])),
    "row": lambda rows, name, rest, chance: (rows | {name: chance.choice(ODD)()}, rest),
    "metadata": lambda rows, name, rest, chance: (
        rows | {"__metadata__": chance.choice(ODD)()}, rest),
    "long name": _renamed("model." + "a" * 2_000_000),
    "control name": _renamed("model.layers.0.\x1b[2J\x1b]0;title\x07.weight"),
    "surrogate name": _renamed("model.layers.0.\ud800.weight"),
    "layer": _renamed("model.layers.999999999.mlp.up_proj.weight"),
    "digits": _renamed(f"model.layers.{'9' * 5000}.mlp.up_proj.weight"),
    "parts": _renamed("model." + "a." * 100_000 + "weight"),
    "no tensor": lambda rows, name, rest, chance: ({}, b""),
    "empty name": _renamed(""),
}  # fmt: skip


def index(folder: Path, chance: random.Random) -> str:
    """An index of shards that names what is not there, what is elsewhere, or far too much."""
    path = folder / INDEX
    try:
        files = json.loads(path.read_bytes())["weight_map"] if path.is_file() else {}
    except (ValueError, KeyError, TypeError, RecursionError):
        files = {}
    if not isinstance(files, dict) or not files:
        files = {"model.embed_tokens.weight": WEIGHTS}
    name = chance.choice(sorted(files))
    kinds: dict[str, Callable[[], Any]] = {
        "up": lambda: {name: "../llama/model.safetensors"},
        "absolute": lambda: {name: "/etc/passwd"},
        "odd": lambda: {name: chance.choice(ODD)()},
        "other": lambda: {name: chance.choice((*JSON_FILES, *OTHER_FILES, ".", "..", "a" * 300))},
        "million": lambda: {f"model.layers.{i}.x.weight": WEIGHTS for i in range(10**6)},
        "files": lambda: {f"model.layers.{i}.x.weight": f"{i}.safetensors" for i in range(10**5)},
        "control": lambda: {"\x1b[2J": "\x1b[2J.safetensors"},
    }
    kind = chance.choice(list(kinds))
    document = chance.choice(
        (
            lambda: {
                "metadata": {"total_size": chance.choice(ODD)()},
                "weight_map": files | kinds[kind](),
            },
            lambda: {"metadata": chance.choice(ODD)(), "weight_map": chance.choice(ODD)()},
            lambda: {"weight_map": kinds[kind]()},
        )
    )()
    if path.is_dir() or path.is_symlink():
        return "index stays"
    path.write_text(json.dumps(document))
    return f"index {kind}"
