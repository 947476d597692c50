"""The weight files of a checkpoint folder: index, shards, headers.

Every shard's header is read; a missing or damaged one is a finding as long as another can be read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from salient.core.errors import ModelError
from salient.core.model_files import (
    INDEX,
    SINGLE,
    StoredTensor,
    read_header,
    read_json,
    weight_files,
)
from salient.diagnose.finding import Finding

from .contents import many, said, seen, told

LONGEST_NAME = 256
FETCH = "Fetch the file again, and compare its size and SHA-256 with the source's."
INDEX_WRONG = Finding(
    "index-wrong",
    "error",
    f"{INDEX} does not describe the files",
    matters="Readers look for tensors where there are none; the index and the shards are of "
    "different versions, or a shard was cut.",
    do=("Fetch index and shards again, of one version.",),
    rank=6,
)
FILE_LAYOUT = Finding(
    "file-layout",
    "error",
    "The header of a weight file does not fit its data",
    matters='safetensors refuses the file: "Error while deserializing header".',
    do=(FETCH,),
    rank=5,
)


@dataclass
class FolderContents:
    """What a folder's weight files have.

    lost: tensors that the index names and no file gives -> the file that should
    paths: the files that were read; indexed: whether an index named them
    gaps, twice: places and words of headers that do not fit, and of tensors that two files hold
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    paths: list[Path] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    gaps: list[tuple[str, str]] = field(default_factory=list)
    twice: list[tuple[str, str]] = field(default_factory=list)
    indexed: bool = False

    def take(self, path: Path, owner: Mapping[str, Any]) -> dict[str, StoredTensor]:
        """Add a file's tensors but those that `owner` (name -> file) gives to another."""
        header = read_header(path)
        self.paths.append(path)
        gap = _gap(path, header)
        if gap:
            self.gaps.append((path.name, gap))
        for name, tensor in header.items():
            if name in self.tensors:
                first = self.tensors[name].path.name
                self.twice.append((f"{path.name}: {name}", f"{first} has it too"))
            if name not in self.tensors or owner.get(name) == path.name:
                self.tensors[name] = tensor
        return header


def read_files(folder: Path) -> FolderContents:
    """Every tensor that can be found. Raises ModelError where no weight file can be read."""
    held = FolderContents()
    index = _read_index(folder, held)
    if index is not None:
        _read_indexed(folder, index, held)
    elif (folder / SINGLE).is_file():
        held.take(folder / SINGLE, {})
    else:
        _read_unnamed(folder, held)
    held.findings += _header_findings(held)
    held.indexed = index is not None
    return held


def _read_index(folder: Path, held: FolderContents) -> dict[str, Any] | None:
    """The index if there is one that can be read; what is wrong with it becomes a finding."""
    if not (folder / INDEX).exists():
        return None
    try:
        index = read_json(folder / INDEX)
    except ModelError as error:
        return _no_index(held, str(error))
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        return _no_index(held, "weight_map is missing, empty or no JSON object")
    return index


def _no_index(held: FolderContents, why: str) -> None:
    held.findings.append(
        Finding(
            "index-damaged",
            "error",
            f"{INDEX} cannot be used",
            matters="Readers take the list of shards from it.",
            do=(FETCH,),
            evidence=seen([(INDEX, why)]),
            rank=4,
        )
    )


def _read_indexed(folder: Path, index: dict[str, Any], held: FolderContents) -> None:
    weight_map: dict[str, Any] = index["weight_map"]
    shards: dict[str, list[str]] = {}
    outside = []
    for name, file in weight_map.items():
        if isinstance(file, str) and Path(file).name == file and 0 < len(file) < LONGEST_NAME:
            shards.setdefault(file, []).append(name)
        else:
            outside.append(name)
    absent, damaged = {}, {}
    for file, names in sorted(shards.items()):
        try:
            if not (folder / file).is_file():
                absent[file] = names
                continue
            header = held.take(folder / file, weight_map)
        except ModelError as error:
            damaged[file] = str(error)
            held.lost |= dict.fromkeys(names, file)
            continue
        held.lost |= {name: file for name in names if name not in header}
    if not held.paths:
        weight_files(folder)  # raises, naming the first one missing or damaged
    wrong = {name: file for name, file in held.lost.items() if file not in damaged}
    held.lost |= {name: file for file, names in absent.items() for name in names}
    held.findings += _shard_findings(absent, damaged, wrong, outside)
    held.findings += _index_findings(index, held, set(weight_map))


def _shard_findings(
    absent: dict[str, list[str]], damaged: dict[str, str], wrong: dict[str, str], outside: list[str]
) -> list[Finding]:
    named = [
        (file, f"named for {len(names)} tensors, the first is {names[0]}")
        for file, names in absent.items()
    ]
    strange = [(f"{f}: {n}", f"{INDEX} says that it is there; it is not") for n, f in wrong.items()]
    strange += [(f"{INDEX}: {name}", "its file is none of this folder") for name in outside]
    return [
        *told(
            named,
            Finding(
                "shard-missing",
                "error",
                f"Missing, though {INDEX} names them: {many(len(absent), 'weight file')}",
                matters='vLLM stops: "Weight files referenced in index but missing".',
                do=tuple(f"Fetch {file}." for file in list(absent)[:8]),
                rank=5,
            ),
        ),
        *told(
            damaged.items(),
            Finding(
                "file-damaged",
                "error",
                f"Cannot be read: {many(len(damaged), 'weight file')}",
                matters="No reader opens them.",
                do=(FETCH,),
                rank=5,
            ),
        ),
        *told(strange, INDEX_WRONG),
    ]


def _index_findings(index: dict[str, Any], held: FolderContents, named: set[str]) -> list[Finding]:
    extra = [tensor for name, tensor in held.tensors.items() if name not in named]
    metadata = index.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    real = sum(t.end - t.start for name, t in held.tensors.items() if name in named)
    differs = type(size) is int and size != real and not held.lost
    return [
        *told(
            [(tensor.path.name, tensor.name) for tensor in extra],
            Finding(
                "index-leftover",
                "note",
                f"{INDEX} does not name {many(len(extra), 'tensor')} of its shards",
                matters="Engines that read whole files load them, others do not.",
            ),
        ),
        *told(
            [(f"{INDEX}: metadata.total_size", said(size))] if differs else [],
            Finding(
                "index-total-size",
                "note",
                f"{INDEX} says {said(size)} bytes, the tensors have {real}",
                matters="Readers do not use the figure; downloads that check it do.",
            ),
        ),
    ]


def _read_unnamed(folder: Path, held: FolderContents) -> None:
    """Files that neither an index nor the usual name points to: vLLM reads them all."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        weight_files(folder)  # raises
    for path in paths:
        held.take(path, {})
    if held.findings:
        return  # an index that cannot be used was named already
    held.findings.append(
        Finding(
            "index-missing",
            "warning",
            f"There is neither {SINGLE} nor {INDEX}",
            matters="vLLM reads every *.safetensors that it finds; Transformers finds no weights.",
            do=(
                f"Rename the file to {SINGLE}."
                if len(paths) == 1
                else f"Fetch {INDEX} from where the shards are from.",
            ),
            evidence=seen((path.name, "read") for path in paths),
            count=len(paths),
            rank=6,
        )
    )


def _gap(path: Path, header: dict[str, StoredTensor]) -> str:
    """Why safetensors refuses the data: gaps, overlaps, or bytes after the last tensor."""
    spans = sorted((tensor.start, tensor.end) for tensor in header.values())
    gaps = [end for (_, end), (start, _) in pairwise(spans) if end != start]
    size = path.stat().st_size
    if gaps:
        return f"tensors do not follow each other at byte {gaps[0]}"
    if spans and spans[-1][1] != size:
        return f"tensors end at byte {spans[-1][1]} of {size}"
    return ""


def _header_findings(held: FolderContents) -> list[Finding]:
    twice = Finding(
        "tensor-twice",
        "warning",
        f"In two files at once: {many(len(held.twice), 'tensor')}",
        matters="Which one counts depends on the reader: files of two versions are mixed.",
        do=("Fetch the whole folder again, of one version.",),
        rank=21,
    )
    return [*told(held.gaps, FILE_LAYOUT), *told(held.twice, twice)]
