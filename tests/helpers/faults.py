"""Tiny 4-bit checkpoints of every writer, and ways to break them one at a time."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from salient.core.model_files import INDEX, SINGLE, read_header, read_json
from salient.diagnose.checkpoint.check import CheckpointReading, read_checkpoint
from salient.diagnose.finding import Finding

Tensors = dict[str, torch.Tensor]
DOWN = "model.layers.1.mlp.down_proj"


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


def edit(folder: Path, change: Callable[[Tensors], Any], file: str = SINGLE) -> None:
    """Rewrite a weight file with its tensors changed in place."""
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


def settings(folder: Path, *drop: str, **changes: Any) -> None:
    """Change keys of quantization_config in config.json; `drop` removes some."""
    config = read_json(folder / "config.json")
    fields = config["quantization_config"]
    changed = {k: v for k, v in {**fields, **changes}.items() if k not in drop}
    write_config(folder, config | {"quantization_config": changed})


def weights(folder: Path, *drop: str, **changes: Any) -> None:
    """The same for the weight settings of compressed-tensors' first group."""
    groups = read_json(folder / "config.json")["quantization_config"]["config_groups"]
    first = next(iter(groups.values()))
    fields = {**first["weights"], **changes}
    first["weights"] = {key: value for key, value in fields.items() if key not in drop}
    settings(folder, config_groups=groups)


def write_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps(config))


def shard(folder: Path, second: Callable[[str], bool], **index: Any) -> None:
    """Split the single file in two, those tensors that `second` names in the second, and index."""
    tensors = load_file(folder / SINGLE)
    parts = {
        f"model-0000{part}-of-00002.safetensors": {
            name: tensor for name, tensor in tensors.items() if second(name) == (part == 2)
        }
        for part in (1, 2)
    }
    for name, part in parts.items():
        save_file(part, folder / name, metadata={"format": "pt"})
    (folder / SINGLE).unlink()
    fields = {
        "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
        "weight_map": {name: file for file, part in parts.items() for name in part},
    }
    (folder / INDEX).write_text(json.dumps(fields | index))


def overwrite(path: Path, name: str, offset: int, data: bytes) -> None:
    """Put `data` into the file where the tensor `name` has its byte `offset`."""
    tensor = read_header(path)[name]
    with path.open("r+b") as file:
        file.seek(tensor.start + offset)
        file.write(data)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a safetensors header in place; the data stays."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def linears(tensors: Tensors, suffix: str = ".qweight") -> list[str]:
    return [name.removesuffix(suffix) for name in tensors if name.endswith(suffix)]


def config(**changes: Any) -> Callable[[Path], None]:
    """A fault that changes keys of config.json."""
    return lambda folder: write_config(folder, read_json(folder / "config.json") | changes)


def alarms(reading: CheckpointReading) -> list[str]:
    """Findings above a note."""
    return [f.id for f in reading.findings if f.level not in ("note", "good")]


def first(folder: Path) -> Finding:
    """The first finding of a folder."""
    return read_checkpoint(folder).findings[0]


def text_of(finding: Finding) -> str:
    """The text of a finding."""
    lines = (finding.title, finding.why, *finding.do)
    return "\n".join((*lines, *(f"{e.where} {e.text}" for e in finding.evidence)))
