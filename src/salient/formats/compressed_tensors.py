"""compressed-tensors' pack-quantized layout, weights only (W4A16), as vLLM reads it.

    weight_packed      int32 [out, in/8]    code + 0..15, eight a word along `in`, low nibble first
    weight_scale       16-bit [out, in/g]   in the model's own type
    weight_zero_point  int32 [out/8, in/g]  packed along `out`; only for asymmetric weights
    weight_shape       int64 [2]            out, in

The format counts codes from -8 to 7 and stores them plus 8, so the nibbles are ours.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from salient.core.errors import CheckpointError
from salient.core.model_files import as_object
from salient.core.packing import pack_nibbles, unpack_nibbles
from salient.core.quant import QuantizedWeight
from salient.core.scheme import Scheme, parse_scheme

SUFFIXES = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")


def pack(weight: QuantizedWeight, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of one module, by local name. Does not modify the input."""
    tensors = {
        "weight_packed": _pack_rows(weight.codes),
        "weight_scale": weight.scale.to(dtype),
        "weight_shape": torch.tensor(weight.codes.shape, dtype=torch.int64),
    }
    if not weight.scheme.symmetric:
        tensors["weight_zero_point"] = _pack_rows(weight.zero.t()).t().contiguous()
    return tensors


def unpack(tensors: dict[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """Exact inverse of `pack`. Does not modify the input."""
    out, width = (int(size) for size in tensors["weight_shape"])
    scale = tensors["weight_scale"].float()
    zero = torch.full(scale.shape, scheme.middle, dtype=torch.uint8)
    if not scheme.symmetric:
        zero = _unpack_rows(tensors["weight_zero_point"].t(), out).t().contiguous()
    return QuantizedWeight(_unpack_rows(tensors["weight_packed"], width), scale, zero, scheme)


def _pack_rows(codes: Tensor) -> Tensor:
    """uint8 [rows, columns] -> int32 [rows, ceil(columns/8)], padded with code 0."""
    return pack_nibbles(pad(codes, (0, -codes.shape[1] % 8)))


def _unpack_rows(packed: Tensor, columns: int) -> Tensor:
    """int32 [rows, packed] -> uint8 [rows, columns]."""
    return unpack_nibbles(packed)[:, :columns].contiguous()


def config(scheme: Scheme, skipped: list[str], parts: Sequence[str] = ()) -> dict[str, Any]:
    """`quantization_config` of config.json.

    `skipped` are the names of unquantized linears, `parts` modules without a quantized one.
    """
    weights = {
        "num_bits": scheme.bits,
        "type": "int",
        "strategy": "group",
        "group_size": scheme.group_size,
        "symmetric": scheme.symmetric,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": sorted({"lm_head", *skipped})
        + [rf"re:(.*\.)?{re.escape(part)}\..*" for part in parts],
    }


def read_config(settings: dict[str, Any]) -> Scheme:
    """The scheme of a `quantization_config`, ours or others'.

    Raises CheckpointError for other schemes than W4A16.
    """
    groups = list(as_object(settings.get("config_groups")).values())
    group = as_object(groups[0]) if len(groups) == 1 else {}
    weights = as_object(group.get("weights"))
    kind = (
        settings.get("format"),
        weights.get("num_bits"),
        weights.get("type"),
        weights.get("strategy"),
    )
    size = weights.get("group_size")
    reordered = weights.get("actorder") in ("group", True)  # "weight" leaves the groups in place
    if (
        kind != ("pack-quantized", 4, "int", "group")
        or size is None
        or reordered
        or group.get("input_activations")
    ):
        raise CheckpointError(
            f"quantization_config has {len(groups)} groups with (format, bits, type, strategy) "
            f"= {kind}. Salient reads compressed-tensors checkpoints with one pack-quantized "
            "group of 4-bit weights in groups and 16-bit activations (W4A16, W4A16_ASYM)."
        )
    return parse_scheme(
        f"w4-g{weights['group_size']}" + ("-sym" if weights.get("symmetric", True) else "")
    )
