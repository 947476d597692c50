"""Codes and 16-bit tensors as the blocks of GGUF: Q4_0, Q4_1, Q8_0, F16, BF16, F32.

A block has 32 weights (ggml-common.h of llama.cpp):

    Q4_0  float16 d, 16 bytes             w = d (q - 8)
    Q4_1  float16 d, float16 m, 16 bytes  w = d q + m
    Q8_0  float16 d, 32 int8              w = d q

Byte i of the 16 has weight i in its low four bits and weight i + 16 in its high ones. A group of
ours is one block or several with the same scale: d is the scale, m is -scale x zero, which is the
only number that is rounded, where the scale is a float16.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.errors import ModelError
from salient.core.quant import QuantizedWeight

BLOCK = 32  # weights
BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
INT8 = (-128, 127)


@dataclass(frozen=True)
class RoundingError:
    """The largest difference of a written weight to the checkpoint's.

    steps: in steps of a code (scales)   absolute: in units of the weight
    """

    steps: float = 0.0
    absolute: float = 0.0


def code_kind(weight: QuantizedWeight) -> str:
    """The smallest type that holds the codes of `weight`; '' if there is none."""
    if weight.scheme.group_size % BLOCK or weight.codes.shape[1] % BLOCK:
        return ""
    if weight.scheme.bits == 4:
        return "Q4_0" if bool((weight.zero == weight.scheme.middle).all()) else "Q4_1"
    low, high = signed_codes(weight).aminmax()
    return "Q8_0" if INT8[0] <= int(low) and int(high) <= INT8[1] else ""


def signed_codes(weight: QuantizedWeight) -> Tensor:
    """code - zero: int16 [out, in]."""
    grouped = weight.codes.to(torch.int16).unflatten(1, (-1, weight.scheme.group_size))
    return (grouped - weight.zero.to(torch.int16)[..., None]).flatten(1)


def code_blocks(weight: QuantizedWeight, kind: str) -> Tensor:
    """The blocks of `weight` in the type `kind` of `code_kind`: uint8 [out, bytes of a row]."""
    repeats = weight.scheme.group_size // BLOCK
    scale = _float16(weight.scale).repeat_interleave(repeats, 1)
    head = [scale]
    if kind == "Q8_0":
        body = signed_codes(weight).to(torch.int8).view(torch.uint8).unflatten(1, (-1, BLOCK))
    else:
        blocks = weight.codes.unflatten(1, (-1, BLOCK))
        body = blocks[..., : BLOCK // 2] | (blocks[..., BLOCK // 2 :] << 4)
    if kind == "Q4_1":
        offset = _float16(-weight.scale * weight.zero).repeat_interleave(repeats, 1)
        head.append(offset)
    heads = torch.stack(head, -1).contiguous().view(torch.uint8)
    return torch.cat((heads, body), -1).flatten(1)


def code_error(weight: QuantizedWeight, kind: str) -> RoundingError:
    """The largest error of `code_blocks`: |(d - s) q + (m + s z)| at either end of the codes."""
    zero = weight.zero.float()
    exact = weight.scale * zero
    scale = _float16(weight.scale).float() - weight.scale
    if kind == "Q4_1":
        offset = _float16(-exact).float() + exact
        ends = (offset, offset + weight.scheme.max_code * scale)
    else:
        ends = (-zero * scale, (weight.scheme.max_code - zero) * scale)
    worst = torch.maximum(ends[0].abs(), ends[1].abs())
    steps = worst / weight.scale.clamp(min=torch.finfo(torch.float32).tiny)
    return RoundingError(float(steps.max()), float(worst.max()))


def _float16(values: Tensor) -> Tensor:
    """`values` in float16. Raises ModelError where they overflow."""
    half = values.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise ModelError(
            f"A scale x zero of {float(values.abs().max()):.3g} exceeds float16 (65504), which "
            "GGUF's blocks have. Leave that linear unquantized with --skip."
        )
    return half


def plain_data(name: str, tensor: Tensor, kind: str) -> Tensor:
    """`tensor` in the type `kind` of PLAIN, or in Q8_0: uint8 [..., bytes of a row].

    Raises ModelError where float16 overflows.
    """
    if kind == "Q8_0":
        return q8_0_blocks(tensor)
    data = tensor.to(PLAIN[kind])
    if kind == "F16" and not bool(torch.isfinite(data).all()):
        raise ModelError(
            f"{name!r} reaches {float(tensor.abs().max()):.3g}, more than float16 has (65504). "
            "Use --others f32."
        )
    return data.contiguous().view(torch.uint8)


def q8_0_blocks(tensor: Tensor) -> Tensor:
    """Values [..., in] rounded to Q8_0, d = max |w| / 127 of each block: uint8 [..., bytes].

    As quantize_row_q8_0_ref of llama.cpp: q = round(w / d), before d is rounded to float16.
    """
    blocks = tensor.float().unflatten(-1, (-1, BLOCK))
    scale = blocks.abs().amax(-1, keepdim=True) / INT8[1]
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    scaled = blocks * inverse
    codes = (scaled.abs() + 0.5).floor_().copysign(scaled).to(torch.int8)  # halves go outwards
    head = scale.to(torch.float16).view(torch.uint8)
    return torch.cat((head, codes.view(torch.uint8)), -1).flatten(-2)


def row_bytes(kind: str, width: int) -> int:
    """Bytes of a row of `width` weights in the type `kind`."""
    if kind in PLAIN:
        return width * PLAIN[kind].itemsize
    return width // BLOCK * BLOCK_BYTES[kind]
