"""Files of a checkpoint folder: index, shards and headers; unexpected, pickle and empty files.

Every shard's header is read; a missing or damaged one is a finding as long as another is readable.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from salient.core.errors import ModelError
from salient.core.model_files import (
    INDEX,
    SINGLE,
    ShardIndex,
    StoredTensor,
    read_header,
    read_index,
    weight_files,
)
from salient.diagnose.finding import Finding
from salient.diagnose.rule import Place

from .contents import FINDINGS

# Each of these sets is a tokenizer (Transformers 5, tokenization files by class; mistral-common).
TOKENIZERS = (
    {"tokenizer.json"},
    {"tokenizer.model"},
    {"vocab.json", "merges.txt"},
    {"vocab.txt"},
    {"tekken.json"},
)
PICKLES = (".bin", ".pt", ".pth")
ENGINE_FILES = (".safetensors", ".json", ".model")


@dataclass
class FolderContents:
    """The weight files of a folder.

    lost: tensors that the index names and no file has -> the file that should
    paths: the files that were read; indexed: whether an index named them
    gaps, duplicates: headers that do not fit their data, and tensors in two files
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict[str, StoredTensor])
    lost: dict[str, str] = field(default_factory=dict[str, str])
    paths: list[Path] = field(default_factory=list[Path])
    findings: list[Finding] = field(default_factory=list[Finding])
    gaps: list[Place] = field(default_factory=list[Place])
    duplicates: list[Place] = field(default_factory=list[Place])
    indexed: bool = False

    def add(self, path: Path, owner: Mapping[str, str]) -> dict[str, StoredTensor]:
        """Add a file's tensors except those that `owner` (name -> file) assigns to another."""
        header = read_header(path)
        self.paths.append(path)
        if gap := _gap(path, header):
            self.gaps.append((path.name, gap))
        for name, tensor in header.items():
            if name in self.tensors:
                first = self.tensors[name].path.name
                self.duplicates.append((f"{path.name}: {name}", f"{first} has it too"))
            if name not in self.tensors or owner.get(name) == path.name:
                self.tensors[name] = tensor
        return header


def read_files(folder: Path) -> FolderContents:
    """Every readable tensor. Raises ModelError where no weight file is readable."""
    contents, index = FolderContents(), None
    try:
        index = read_index(folder)
    except ModelError as error:
        contents.findings += FINDINGS["index-damaged"].at([(INDEX, str(error))])
    if index is not None:
        _read_indexed(folder, index, contents)
    elif (folder / SINGLE).is_file():
        contents.add(folder / SINGLE, {})
    else:
        _read_unnamed(folder, contents)
    contents.findings += FINDINGS["file-layout"].at(contents.gaps) + FINDINGS["tensor-twice"].at(
        contents.duplicates
    )
    contents.indexed = index is not None
    return contents


def _read_indexed(folder: Path, index: ShardIndex, contents: FolderContents) -> None:
    absent: dict[str, list[str]] = {}
    damaged: dict[str, str] = {}
    misplaced: dict[str, str] = {}
    for file, names in index.shards.items():
        if not (folder / file).is_file():
            absent[file] = names
            continue
        try:
            header = contents.add(folder / file, index.files)
        except ModelError as error:
            damaged[file] = str(error)
            contents.lost |= dict.fromkeys(names, file)
        else:
            misplaced |= {name: file for name in names if name not in header}
    if not contents.paths:
        weight_files(folder)  # raises, naming the first one missing or damaged
    contents.lost |= misplaced | {name: file for file, names in absent.items() for name in names}
    contents.findings += [
        *FINDINGS["shard-missing"].at(
            ((f, f"named for {len(n)} tensors, the first is {n[0]}") for f, n in absent.items()),
            steps=[f"Fetch {file}." for file in list(absent)[:8]],
        ),
        *FINDINGS["file-damaged"].at(damaged.items()),
        *FINDINGS["index-wrong"].at(
            [(f"{f}: {n}", f"{INDEX} places it there; it is absent") for n, f in misplaced.items()]
            + [(f"{INDEX}: {name}", "its file is not in this folder") for name in index.outside]
        ),
        *_index_findings(index, contents),
    ]


def _index_findings(index: ShardIndex, contents: FolderContents) -> list[Finding]:
    named = index.files.keys() | index.outside.keys()
    extra = [tensor for name, tensor in contents.tensors.items() if name not in named]
    size = index.metadata.get("total_size")
    real = sum(t.bytes for name, t in contents.tensors.items() if name in named)
    differs = type(size) is int and size != real and not contents.lost
    place = (f"{INDEX}: metadata.total_size", str(size))
    return [
        *FINDINGS["index-leftover"].at((tensor.path.name, tensor.name) for tensor in extra),
        *FINDINGS["index-total-size"].at([place] if differs else [], size=size, real=real),
    ]


def _read_unnamed(folder: Path, contents: FolderContents) -> None:
    """Files that neither an index nor the usual name points to: vLLM reads them all."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        weight_files(folder)  # raises
    for path in paths:
        contents.add(path, {})
    if contents.findings:
        return  # an index that cannot be used is a finding already
    rename, fetch = f"Rename the file to {SINGLE}.", f"Fetch {INDEX} from the shards' source."
    steps = [rename if len(paths) == 1 else fetch]
    contents.findings += FINDINGS["index-missing"].at(
        ((path.name, "read") for path in paths), steps=steps
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


def check_extra_files(folder: Path, contents: FolderContents) -> list[Finding]:
    """Unexpected, empty and pickle files, and the tokenizer."""
    files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
    lost = set(contents.lost.values())
    known = {path.name for path in contents.paths} | lost
    strays = [name for name in files if name.endswith(".safetensors") and name not in known]
    nothing = (n for n, path in files.items() if not path.stat().st_size and n[0] != ".")
    empty = [name for name in nothing if name not in lost]
    needed = [n for n in empty if n.endswith(ENGINE_FILES) or n in ("vocab.txt", "merges.txt")]
    complete = any(names <= set(files) for names in TOKENIZERS)
    tokenizer = complete or any(name.endswith(".tiktoken") for name in files)
    return [
        *FINDINGS[_stray_row(strays, indexed=contents.indexed)].at(
            ((n, "not named by the index" if contents.indexed else "unexpected") for n in strays),
            files=" ".join(strays[:8]),
        ),
        *FINDINGS["file-empty"].at(
            ((name, "0 bytes") for name in empty), level="error" if needed else None
        ),
        *FINDINGS["tokenizer-missing"].at(
            [] if tokenizer else [(folder.name, "no tokenizer.json or the like")]
        ),
        *FINDINGS["file-pickle"].at((name, "a pickle") for name in files if name.endswith(PICKLES)),
    ]


def _stray_row(strays: list[str], *, indexed: bool) -> str:
    """The row of findings.toml on the effect of unexpected safetensors."""
    if SINGLE in strays:
        return "file-stray-single"
    if any(name.startswith("consolidated") for name in strays):
        return "file-stray-consolidated"
    return "file-stray-indexed" if indexed else "file-stray"
