"""AutoAWQ's GEMM layout: what vLLM, SGLang, Transformers and AutoAWQ read as `quant_method: awq`.

    qweight  int32   [in, out/8]       eight codes a word, in the order of NIBBLES
    qzeros   int32   [in/g, out/8]     the same packing; a zero is stored as it is
    scales   float16 [in/g, out]

A symmetric weight is stored exactly too, with its zero of 8 written out: readers need `qzeros`, and
vLLM's fast kernels take AWQ with zero points only.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import CheckpointError, ShapeError
from salient.core.packing import pack_nibbles, unpack_nibbles
from salient.core.quant import QuantizedWeight
from salient.core.scheme import LayerSchemes, Scheme, parse_scheme

# Nibble i (bits 4i) of an int32 is column NIBBLES[i] of its eight.
NIBBLES = (0, 2, 4, 6, 1, 3, 5, 7)
SUFFIXES = ("qweight", "qzeros", "scales")


def pack(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of one module, by local name.

    Does not modify the input. `dtype` is unused: scales are float16.
    """
    del dtype
    return {
        "qweight": _pack_columns(weight.codes.t()),
        "qzeros": _pack_columns(weight.zero.t()),
        "scales": weight.scale.t().to(torch.float16).contiguous(),
    }


def unpack(tensors: dict[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """Exact inverse of `pack`. Does not modify the input."""
    return QuantizedWeight(
        codes=_unpack_columns(tensors["qweight"]).t().contiguous(),
        scale=tensors["scales"].float().t().contiguous(),
        zero=_unpack_columns(tensors["qzeros"]).t().contiguous(),
        scheme=scheme,
    )


def _pack_columns(codes: Tensor) -> Tensor:
    """uint8 [rows, columns] -> int32 [rows, columns/8]."""
    octets = codes.reshape(len(codes), -1, 8)
    return pack_nibbles(octets[..., list(NIBBLES)].flatten(1))


def _unpack_columns(packed: Tensor) -> Tensor:
    """int32 [rows, columns/8] -> uint8 [rows, columns]."""
    order = sorted(range(8), key=lambda nibble: NIBBLES[nibble])
    return unpack_nibbles(packed).reshape(len(packed), -1, 8)[..., order].flatten(1)


def config(schemes: LayerSchemes, skipped: list[str], parts: Sequence[str] = ()) -> dict[str, Any]:
    """`quantization_config` of config.json.

    Raises ShapeError for what the format cannot say: schemes that differ, codes of 8 bits.

    `skipped` are the names of unquantized linears, `parts` modules without a quantized one: readers
    look for either in a linear's name.

    The list is never empty: vLLM would make its own from the types of tensors (0.32, auto_awq.py,
    maybe_update_config), and skip a whole mixer for one bare parameter in it.
    """
    scheme = schemes.main
    if schemes.own or scheme.bits != 4:
        raise ShapeError(
            f"The format awq has one scheme of 4 bits for all linears, not {schemes}. Write the "
            "checkpoint with --format compressed-tensors."
        )
    return {
        "quant_method": "awq",
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": [*skipped, *parts] or ["lm_head"],
    }


def read_config(settings: dict[str, Any]) -> LayerSchemes:
    """The scheme of a `quantization_config`, ours or others'.

    Raises CheckpointError for other AWQ layouts.
    """
    return read_version(settings, "gemm")


def read_version(settings: dict[str, Any], wanted: str) -> LayerSchemes:
    """The scheme of an AWQ checkpoint of the layout `wanted`. Raises CheckpointError for others."""
    version = str(settings.get("version", settings.get("format", "gemm"))).lower()
    bits = settings.get("bits", settings.get("w_bit"))
    group_size = settings.get("group_size", settings.get("q_group_size"))
    if settings.get("quant_method") not in ("awq", "awq_marlin", None):
        version = "gemm"  # AutoRound's, whose `version` is its own
    if version != wanted or bits != 4 or group_size is None:
        raise CheckpointError(
            f"quantization_config says version={version!r}, bits={bits}, group_size={group_size}. "
            "Salient reads AutoAWQ checkpoints of version 'gemm', 'gemv', 'gemv_fast' and 'marlin' "
            "with 4 bits; convert the checkpoint to one of them first."
        )
    return LayerSchemes(parse_scheme(f"w4-g{group_size}"))
