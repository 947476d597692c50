"""AutoAWQ's GEMV-fast layout (`version: gemv_fast`): four outputs in an int16, zeros as products.

    qweight  int16   [out/4, in]      four outputs interleaved over 64 inputs, see `_codes`
    scales   float16 [groups, out]    padded with 0 after the last group
    qzeros   float16 [groups, out]    -(scale * zero), rounded to float16

The kernel computes code * scale + qzeros; `dequantize` is that, exact in float32. `unpack` proves
that each qzeros is of an integer zero, and takes that.
"""

from typing import Any

import torch
from torch import Tensor

from salient.core.quant import QuantizedWeight, in_groups
from salient.core.scheme import LayerSchemes, Scheme

from .autoawq import read_version
from .stored_parts import StoredLinear

SUFFIXES = ("qweight", "qzeros", "scales")
_ROWS, _STRIDE = 4, 64  # outputs that share an int16; inputs over which they are interleaved


def read_config(settings: dict[str, Any]) -> LayerSchemes:
    """The scheme of a `quantization_config`. Raises CheckpointError for other AWQ layouts."""
    return read_version(settings, "gemv_fast")


def unpack(tensors: dict[str, Tensor], scheme: Scheme, linear: StoredLinear) -> QuantizedWeight:
    """The codes of one linear. Raises CheckpointError where a zero is no integer of its scale."""
    codes, scale, product = _parts(tensors, scheme, linear)
    zero = (product / -scale).round_().clamp_(0, scheme.max_code)
    if not torch.equal(-(scale * zero).half().float(), product):
        raise linear.misfit(tensors, "and its qzeros are no products of scales and zeros 0 to 15")
    return QuantizedWeight(codes, scale, zero.byte(), scheme)


def dequantize(tensors: dict[str, Tensor], linear: StoredLinear) -> Tensor:
    """The weight float32 [out, in]: code * scale + qzeros."""
    assert linear.scheme
    codes, scale, product = _parts(tensors, linear.scheme, linear)
    grouped = in_groups(codes, linear.scheme).float()
    return grouped.mul_(scale[..., None]).add_(product[..., None]).flatten(1)


def _parts(
    tensors: dict[str, Tensor], scheme: Scheme, linear: StoredLinear
) -> tuple[Tensor, Tensor, Tensor]:
    """codes uint8 [out, in], scale and -(scale * zero) float32 [out, groups]."""
    codes = _codes(tensors["qweight"], linear, tensors)
    count = codes.shape[1] // scheme.group_size
    scale, product = (tensors[part][:count].t().float() for part in ("scales", "qzeros"))
    shape = (len(codes), count)
    if scale.shape != shape or product.shape != shape or codes.shape[1] % scheme.group_size:
        raise linear.misfit(tensors)
    return codes, scale.contiguous(), product.contiguous()


def _codes(packed: Tensor, linear: StoredLinear, tensors: dict[str, Tensor]) -> Tensor:
    """int16 [out/4, in] -> uint8 [out, in]; undoes AutoAWQ's pack_intweight step by step."""
    if packed.dtype != torch.int16 or packed.ndim != 2 or packed.shape[1] % _STRIDE:
        raise linear.misfit(tensors)
    quads, width = packed.shape
    strides = width // _STRIDE
    ints = packed.reshape(quads, strides, _STRIDE).int()
    fields = torch.stack([(ints >> shift) & 15 for shift in (0, 4, 8, 12)], -1)
    rows = (
        fields.reshape(quads, strides, _ROWS, _STRIDE).transpose(1, 2).reshape(-1, width // 32, 32)
    )
    octets = rows.reshape(*rows.shape[:2], 4, 2, 4).transpose(-1, -2)  # 0 2 4 6 1 3 5 7 -> 0 to 7
    pairs = octets.reshape(*rows.shape[:2], 4, 4, 2).transpose(2, 3)
    return pairs.reshape(-1, width).byte()
