"""Read the calibration tokens of a comparison: one file for all quantizers."""

from pathlib import Path

import torch
from safetensors.torch import load_file


def read_tokens(path: Path) -> torch.Tensor:
    """The tensor `tokens` of a safetensors file: int64 [samples, tokens], without padding."""
    tensors = load_file(path)
    if "tokens" not in tensors:
        raise SystemExit(f"{path}: no tensor `tokens`; it has {sorted(tensors)}")
    tokens = tensors["tokens"]
    if tokens.dtype != torch.int64 or tokens.ndim != 2:
        raise SystemExit(
            f"{path}: `tokens` must be int64 [samples, tokens], "
            f"got {tokens.dtype} {list(tokens.shape)}"
        )
    return tokens
