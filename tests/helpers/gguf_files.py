"""GGUF files without data: the header of a model in given types."""

import struct
from pathlib import Path

from salient.shapes.gguf_header import NAMES

_NUMBERS = {kind: int(number) for number, (kind, *_) in NAMES["types"].items()}
LLAMA_8B = {
    "general.architecture": "llama", "general.file_type": 15, "llama.embedding_length": 4096,
    "llama.block_count": 32, "llama.feed_forward_length": 14336, "llama.context_length": 131072,
    "llama.attention.head_count": 32, "llama.attention.head_count_kv": 8,
}  # fmt: skip


def text(value: str) -> bytes:
    content = value.encode()
    return struct.pack("<Q", len(content)) + content


def entry(key: str, value: int | str | list[str]) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return text(key) + struct.pack("<II", 4, value)


def tensor(name: str, kind: str, shape: tuple[int, ...]) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
    return text(name) + axes + struct.pack("<IQ", _NUMBERS[kind], 0)


def write_gguf(path: Path, metadata: dict, tensors: list[tuple[str, str, tuple[int, ...]]]) -> Path:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    entries = b"".join(entry(key, value) for key, value in metadata.items())
    path.write_bytes(head + entries + b"".join(tensor(*row) for row in tensors))
    return path


def llama_tensors(blocks: int = 32) -> list[tuple[str, str, tuple[int, ...]]]:
    """Llama-3.1-8B in Q4_K_M."""
    tensors = [
        ("token_embd.weight", "Q4_K", (128256, 4096)),
        ("output.weight", "Q6_K", (128256, 4096)),
        ("output_norm.weight", "F32", (4096,)),
    ]
    for index in range(blocks):
        more = "Q6_K" if index < 4 or index >= 28 or (index - 4) % 3 == 2 else "Q4_K"
        tensors += [
            (f"blk.{index}.{name}.weight", kind, shape)
            for name, kind, shape in (
                ("attn_norm", "F32", (4096,)),
                ("ffn_norm", "F32", (4096,)),
                ("attn_q", "Q4_K", (4096, 4096)),
                ("attn_k", "Q4_K", (1024, 4096)),
                ("attn_v", more, (1024, 4096)),
                ("attn_output", "Q4_K", (4096, 4096)),
                ("ffn_gate", "Q4_K", (14336, 4096)),
                ("ffn_up", "Q4_K", (14336, 4096)),
                ("ffn_down", more, (4096, 14336)),
            )
        ]
    return tensors
