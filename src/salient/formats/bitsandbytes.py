"""bitsandbytes' weights: NF4 and FP4 with their quant_state, and INT8 with a scale per row.

    weight                          uint8 [n/2, 1]    two codes a byte, the upper first
    weight.quant_map                float32 [16]      the value of each code
    weight.absmax                   float32 [n/b]     the scale of each b values; or codes, nested:
    weight.nested_absmax, weight.nested_quant_map     scales of the scales, and their 256 values
    weight.quant_state.bitsandbytes__nf4 (__fp4)      JSON as bytes: shape, blocksize, dtype, ...

    weight int8 [out, in]; SCB float32 [out]          value = weight * SCB / 127

Arithmetic as in bitsandbytes 0.50 (functional.py: dequantize_4bit, dequantize_blockwise,
int8_vectorwise_dequant) in float32; it rounds the result to the quant_state's dtype.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import CheckpointError
from salient.core.input_files import parse_json
from salient.core.model_files import StoredTensor, as_list, as_object

from .stored_parts import StoredLinear

MARKERS = (".absmax", "SCB")
BASES = ("",)
STATES = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
PARTS = ("", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", *STATES)
SIBLINGS = ("SCB", "weight_format")
_PER_127 = 7.874015718698502e-3  # 1/127, as bitsandbytes has it
_LARGEST_STATE = 2**16  # bytes


def read_config(settings: dict[str, Any]) -> None:
    """No setting matters: each weight has its own state."""


def dequantize(tensors: dict[str, Tensor], linear: StoredLinear) -> Tensor:
    """The weight, float32 in its own shape. Raises CheckpointError for a state that misfits."""
    if "SCB" in tensors:
        return _int8(tensors, linear)
    state = _state(tensors, linear)
    shape, size = _sizes(state, "shape", linear), _whole(state.get("blocksize"), linear)
    packed, table, absmax = (tensors[part] for part in ("", ".quant_map", ".absmax"))
    count = prod(shape)
    if packed.dtype != torch.uint8 or packed.numel() != -(-count // 2) or table.numel() != 16:
        raise linear.misfit(tensors)
    if absmax.dtype == torch.uint8:
        offset = state.get("nested_offset")
        if not isinstance(offset, int | float):
            raise _bad_state(linear, "no nested_offset")
        nested = _whole(state.get("nested_blocksize"), linear)
        sizes = (tensors[".nested_quant_map"].numel(), tensors[".nested_absmax"].numel())
        if sizes != (256, -(-absmax.numel() // nested)):
            raise linear.misfit(tensors)
        scales = tensors[".nested_absmax"].float().repeat_interleave(nested)[: absmax.numel()]
        absmax = tensors[".nested_quant_map"].float()[absmax.flatten().long()] * scales + offset
    if absmax.numel() != -(-count // size):
        raise linear.misfit(tensors)
    pairs = packed.flatten()
    codes = torch.stack((pairs >> 4, pairs & 15), -1).flatten()[:count].long()
    values = table.float()[codes]
    return values.mul_(absmax.float().repeat_interleave(size)[:count]).reshape(shape)


def _int8(tensors: dict[str, Tensor], linear: StoredLinear) -> Tensor:
    weight, scale = tensors[""], tensors["SCB"].float()
    if weight.dtype != torch.int8 or weight.ndim != 2 or scale.shape != weight.shape[:1]:
        raise linear.misfit(tensors)
    form = tensors.get("weight_format")
    if form is not None and (form.numel() != 1 or int(form) != 0):
        raise linear.misfit(tensors, "but only row-major INT8 weights (weight_format 0) are read")
    return weight.float().mul_(scale[:, None]).mul_(_PER_127)


def _state(tensors: dict[str, Tensor], linear: StoredLinear) -> dict[str, Any]:
    """The JSON of a weight's quant_state."""
    packed = next((tensors[part] for part in STATES if part in tensors), None)
    if packed is None:
        raise CheckpointError(
            f"{linear.name!r} has no {STATES[0].lstrip('.')}: the checkpoint is incomplete, write "
            "it again with save_pretrained."
        )
    if packed.dtype != torch.uint8 or packed.numel() > _LARGEST_STATE:
        raise linear.misfit(tensors)
    try:
        return as_object(parse_json(packed.numpy().tobytes()))
    except ValueError as error:
        raise _bad_state(linear, f"no JSON ({error})") from error


def _sizes(state: dict[str, Any], key: str, linear: StoredLinear) -> list[int]:
    return [_whole(size, linear) for size in as_list(state.get(key))] or [_whole(None, linear)]


def _whole(size: object, linear: StoredLinear) -> int:
    if type(size) is not int or not 0 < size < 2**40:
        raise _bad_state(linear, f"{size!r} as a size")
    return size


def _bad_state(linear: StoredLinear, fault: str) -> CheckpointError:
    return CheckpointError(
        f"The quant_state of {linear.name!r} has {fault}: the file is damaged, fetch the "
        "checkpoint again."
    )


def count_weights(headers: dict[str, StoredTensor], linear: StoredLinear) -> int:
    """How many weights the stored tensors of one parameter are."""
    stored = headers[""]
    return stored.elements * (2 if stored.dtype == "U8" else 1)
