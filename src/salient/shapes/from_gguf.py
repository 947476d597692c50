"""A model's shape from the headers of its GGUF files, with the type of each matrix."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from salient.core.errors import ModelError

from .from_config import read_shape
from .gguf_header import NAMES, GgufHeader, GgufTensor, read_gguf_header
from .model_shape import ModelShape

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+?)(?:\.weight)?$")
_PLAIN = ("F32", "F16", "BF16", "F64")
EMBEDDING, HEAD = "token_embd.weight", "output.weight"


def gguf_files(folder: Path) -> list[Path]:
    """The GGUF models of a folder, the first shard of each; no projectors of towers."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".gguf")
    shards = [
        (_SHARD.match(path.name), path) for path in files if "mmproj" not in path.name.lower()
    ]
    return [path for match, path in shards if match is None or int(match[2]) == 1]


def gguf_shape(path: Path) -> ModelShape:
    """The shape, bytes and types in `path` and its further shards.

    Raises ModelError for a damaged file, a missing shard, or an architecture that has no keys.
    """
    headers = [read_gguf_header(shard) for shard in gguf_shards(path)]
    tensors = [tensor for header in headers for tensor in header.tensors]
    shape = read_shape(_config(headers[0], tensors), path.name)
    number = headers[0].metadata.get("general.file_type")
    settings = {
        "quant_method": "gguf",
        "file_type": NAMES["file_types"].get(str(number), ""),
        "types": _types(tensors),
    }
    return replace(shape, quantization=settings, stored_bytes=sum(t.bytes for t in tensors))


def gguf_shards(path: Path) -> list[Path]:
    """The file `path`, or all shards that it is one of. Raises ModelError for a missing one."""
    match = _SHARD.match(path.name)
    if match is None:
        return [path]
    count = int(match[3])
    shards = [
        path.with_name(f"{match[1]}-{index:05d}-of-{match[3]}{path.suffix}")
        for index in range(1, min(count, 1000) + 1)
    ]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        raise ModelError(
            f"{path.name} is one of {count} files, and {missing[0]!r} is not in its folder "
            f"({len(missing)} missing). Fetch the missing files."
        )
    return shards


def _config(header: GgufHeader, tensors: list[GgufTensor]) -> dict[str, Any]:
    """The config.json that the metadata amount to."""
    data = header.metadata
    architecture = str(data.get("general.architecture", ""))
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    config: dict[str, Any] = {
        key: data[f"{architecture}.{own}"]
        for key, own in NAMES["keys"].items()
        if f"{architecture}.{own}" in data
    }
    experts = data.get(f"{architecture}.expert_count")
    kind = NAMES["architectures"].get(architecture, architecture or "unknown")
    kind = "mixtral" if kind == "llama" and experts else kind
    config["model_type"] = kind
    if experts:
        config[NAMES["experts"].get(kind, "num_experts")] = experts
    if config.get("kv_lora_rank"):
        rope = config.get("qk_rope_head_dim")
        whole = config.pop("qk_head_dim", None)
        if type(rope) is int and type(whole) is int:
            config["qk_nope_head_dim"] = whole - rope
        config.pop("head_dim", None)
    else:
        config.pop("qk_rope_head_dim", None)
    config["vocab_size"] = shapes.get(EMBEDDING, (0,))[0] or data.get(f"{architecture}.vocab_size")
    config["tie_word_embeddings"] = HEAD not in shapes
    return config


def _types(tensors: list[GgufTensor]) -> dict[str, list[str]]:
    """The modules of each type, the type with most bytes first; biases and norms are left out."""
    sizes: dict[str, int] = {}
    modules: dict[str, list[str]] = {}
    for tensor in tensors:
        name = _module(tensor.name)
        if name and len(tensor.shape) > 1:
            kind = "F16" if tensor.kind in _PLAIN else tensor.kind
            modules.setdefault(kind, []).append(name)
            sizes[kind] = sizes.get(kind, 0) + tensor.bytes
    return {kind: modules[kind] for kind in sorted(modules, key=lambda kind: -sizes[kind])}


def _module(name: str) -> str:
    """A module as lists of other quantizers name it, "" where no name is known."""
    if name in (EMBEDDING, HEAD):
        return "lm_head" if name == HEAD else "embed_tokens"
    match = _BLOCK.match(name)
    own = NAMES["modules"].get(match[2]) if match else None
    return f"layers.{match[1]}.{own}" if match and own else ""
