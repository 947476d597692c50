"""Matrices of small floats or integers with a grid of scales: FP8, FP4, INT8, and packed codes.

What compressed-tensors (float-quantized, int-quantized, naive-quantized, nvfp4-pack-quantized,
mxfp4-pack-quantized, mxfp8, pack-quantized of any bits and order), DeepSeek and Transformers (fp8,
fbgemm_fp8) and ModelOpt (FP8, NVFP4) write:

    weight              FP8 or int8 [out, in]; uint8 [out, in/2] for two FP4 values a byte
    weight_packed       uint8 [out, in/2] (FP4), or int32 [out, words] with weight_shape [2]
    weight_scale[_inv]  one; [out] or [out, 1]; [out, groups]; or [out/b, in/b] for blocks
    weight_scale_2      ModelOpt's scale of an NVFP4 tensor: scales are multiplied by it
    weight_global_scale compressed-tensors' scale of an NVFP4 tensor: scales are divided by it
    weight_zero_point   of the shape of the scales; packed along `out` for packed codes
    weight_g_idx        the group of each input, where groups are reordered

A value is (stored - zero) * scale, in float32: exact where scales have 16 bits, and rounded once
where they have 32. The writers compute in the scales' type, which is this rounded to that type.
"""

from typing import Any

import torch
from torch import Tensor

from salient.core.errors import CheckpointError
from salient.core.model_files import StoredTensor, as_list, as_object
from salient.core.packing import WORD_BITS

from .stored_parts import StoredLinear

MARKERS = ("_packed", "_scale_inv", "_scale")
BASES = ("_packed", "")
PARTS = (
    "", "_packed", "_scale", "_scale_inv", "_scale_2", "_global_scale", "_zero_point", "_shape",
    "_g_idx",
)  # fmt: skip
# Of activations, next to a quantized weight.
SIBLINGS = (
    "input_scale", "input_global_scale", "input_zero_point", "input_scale_ub", "activation_scale",
    "output_scale", "output_zero_point",
)  # fmt: skip
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # E2M1; the fourth bit is the sign
SECOND = {"_scale_2", "_global_scale"}
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def read_config(settings: dict[str, Any]) -> None:
    """Check a `quantization_config`. Raises CheckpointError for weights of another kind."""
    method = str(settings.get("quant_method"))
    if method != "compressed-tensors":
        return
    groups = [as_object(group) for group in as_object(settings.get("config_groups")).values()]
    if not groups:
        raise CheckpointError(
            "quantization_config has 0 config_groups. Fetch config.json of the checkpoint again."
        )
    for group in groups:
        weights, form = as_object(group.get("weights")), group.get("format", settings.get("format"))
        if not weights or str(form) in ("marlin-24", "sparse-24-bitmask", "sparse-bitmask"):
            raise CheckpointError(
                f"quantization_config has a config group of the format {form!r} with weights "
                f"{dict(weights)}. Salient reads compressed-tensors' pack-quantized, "
                "int-quantized, float-quantized, naive-quantized, nvfp4, mxfp4 and mxfp8 weights."
            )


def dequantize(tensors: dict[str, Tensor], linear: StoredLinear) -> Tensor:
    """The weight, float32 [..., out, in]. Raises CheckpointError where shapes do not fit."""
    stored = tensors.get("_packed", tensors.get(""))
    if stored is None or (stored.dtype == torch.int32) != ("_shape" in tensors):
        raise linear.misfit(tensors)
    if stored.dtype == torch.int32:
        return _packed_codes(tensors, linear)
    stored_scale = tensors.get("_scale_inv", tensors.get("_scale"))
    values = stored_values(stored, linear)
    if stored_scale is None or values is None:
        raise linear.misfit(tensors, "" if stored_scale is not None else "without a scale")
    scale = scale_values(stored_scale)
    four = values.shape != stored.shape
    if four and stored_scale.dtype == torch.float8_e4m3fn and not SECOND & tensors.keys():
        raise linear.misfit(tensors, "without the scale of the whole tensor that NVFP4 has")
    if "_scale_2" in tensors:
        scale = scale * tensors["_scale_2"].float()
    if "_global_scale" in tensors:
        scale = scale / tensors["_global_scale"].float()
    if "_g_idx" in tensors and scale.ndim == 2:
        return _by_group(values, scale, tensors.get("_zero_point"), tensors["_g_idx"])
    blocks = None if four else _block_size(linear)
    zero = tensors.get("_zero_point")
    if zero is not None:
        grid = spread(scale_values(zero), values, blocks)
        values = values if grid is None else values - grid
    grid = spread(scale, values, blocks)
    if grid is None or (zero is not None and zero.shape != tensors.get("_scale", scale).shape):
        raise linear.misfit(tensors)
    return values.mul_(grid)


def stored_values(stored: Tensor, linear: StoredLinear) -> Tensor | None:
    """The stored numbers in float32 [..., out, in]; None for a type without such."""
    four = stored.dtype == torch.uint8 or (
        stored.dtype == torch.int8 and linear.settings.get("quant_method") == "fp8"
    )  # DeepSeek's experts of FP4 are int8
    if four or str(stored.dtype) == "torch.float4_e2m1fn_x2":
        return fp4_values(stored.view(torch.uint8))
    return stored.float() if stored.dtype in (*_FP8, torch.int8) else None


def fp4_values(packed: Tensor) -> Tensor:
    """uint8 [..., n], two E2M1 values a byte, the lower first -> float32 [..., 2n]."""
    table = torch.tensor([*FP4, *(-value for value in FP4)])
    return table[torch.stack((packed & 15, packed >> 4), -1).flatten(-2).long()]


def scale_values(scale: Tensor) -> Tensor:
    """Scales in float32; bytes are exponents, 2^(byte - 127) (E8M0)."""
    if scale.dtype == torch.uint8:
        return torch.exp2(scale.float() - 127)
    return scale.float()


def spread(scale: Tensor, values: Tensor, blocks: tuple[int, int] | None) -> Tensor | None:
    """`scale` in a shape that multiplies `values` [..., out, in]; None if it has no such shape."""
    out, width = values.shape[-2:]
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.shape == values.shape[:-1]:  # a channel
        return scale[..., None]
    if scale.ndim != values.ndim or scale.shape[:-2] != values.shape[:-2]:
        return None
    rows, columns = scale.shape[-2:]
    if blocks and (rows, columns) != (out, 1):
        high, wide = blocks
        if (rows, columns) != (-(-out // high), -(-width // wide)):
            return None
    elif out % rows or width % columns:
        return None
    else:
        high, wide = out // rows, width // columns
    if columns > 1:
        scale = scale.repeat_interleave(wide, -1)[..., :width]
    return scale.repeat_interleave(high, -2)[..., :out, :]


def _block_size(linear: StoredLinear) -> tuple[int, int] | None:
    """The declared block of FP8 weights, [outputs, inputs]."""
    groups = as_object(linear.settings.get("config_groups")).values()
    declared = [as_object(as_object(g).get("weights")).get("block_structure") for g in groups]
    for size in (linear.settings.get("weight_block_size"), *declared):
        pair = as_list(size)
        if len(pair) == 2 and all(type(n) is int and 0 < n < 2**20 for n in pair):
            return pair[0], pair[1]
    return None


def _packed_codes(tensors: dict[str, Tensor], linear: StoredLinear) -> Tensor:
    """Codes in int32 words along `in`, signed about their middle."""
    packed, scale = tensors["_packed"], tensors["_scale"].float()
    out, width = (int(size) for size in tensors["_shape"])
    fits = (b for b in _declared_bits(linear) if _fields(packed[:1], b, width) is not None)
    bits = next(fits, 0)
    if not bits or packed.shape[0] != out or scale.ndim != 2 or scale.shape[0] not in (1, out):
        raise linear.misfit(tensors)
    codes = _fields(packed, bits, width)
    assert codes is not None
    codes = codes.float()
    zero = torch.full((), float(2 ** (bits - 1)))
    if "_zero_point" in tensors:
        zeros = tensors["_zero_point"]
        fields = _fields(zeros.t(), bits, out)
        if fields is None or fields.t().shape != scale.shape:
            raise linear.misfit(tensors)
        zero = fields.t().float()
    groups = tensors.get("_g_idx", torch.arange(width) // max(width // scale.shape[1], 1))
    if groups.shape != (width,) or int(groups.min()) < 0 or int(groups.max()) >= scale.shape[1]:
        raise linear.misfit(tensors)
    index = groups.long()
    return codes.sub_(zero if zero.ndim == 0 else zero[:, index]).mul_(scale[:, index])


def _by_group(values: Tensor, scale: Tensor, zero: Tensor | None, groups: Tensor) -> Tensor:
    index = groups.long()
    if zero is not None:
        values = values - zero.float()[:, index]
    return values.mul_(scale[:, index])


def _fields(packed: Tensor, bits: int, count: int) -> Tensor | None:
    """int32 [rows, words] -> `count` fields a row, the first lowest; None for another width.

    Fields of 3, 5, 6 and 7 bits cross words (compressed-tensors 0.17 and later) or do not (before).
    """
    columns, per = packed.shape[1], WORD_BITS // bits
    if columns == -(-count // per):
        shifts = torch.arange(per) * bits
        return ((packed.long()[..., None] >> shifts) & (2**bits - 1)).flatten(1)[:, :count]
    if columns != -(-count * bits // WORD_BITS):
        return None
    starts = torch.arange(count) * bits
    low = packed.long() & 0xFFFFFFFF
    high = torch.nn.functional.pad(low, (0, 1))[:, 1:]
    index, shift = starts // WORD_BITS, starts % WORD_BITS
    # at most 32 + 7 bits of two words matter, and they fit an int64
    return ((low[:, index] | ((high[:, index] & 0x7F) << WORD_BITS)) >> shift) & (2**bits - 1)


def count_weights(headers: dict[str, StoredTensor], linear: StoredLinear) -> int:
    """How many weights the stored tensors of one parameter are, padding included."""
    stored = headers.get("_packed") or headers[""]
    if stored.dtype == "I32":
        return stored.elements * WORD_BITS // _declared_bits(linear)[0]  # but for padding
    four = stored.dtype == "U8" or (
        stored.dtype == "I8" and linear.settings.get("quant_method") == "fp8"
    )
    return stored.elements * (2 if four else 1)


def _declared_bits(linear: StoredLinear) -> list[int]:
    """The bits of the config groups; the shape of a linear's words tells which is its own."""
    groups = as_object(linear.settings.get("config_groups")).values()
    bits = [as_object(as_object(group).get("weights")).get("num_bits") for group in groups]
    return [b for b in dict.fromkeys(bits) if type(b) is int and 0 < b <= 8] or [4]
