"""PyTorch's int4 operator, for CPUs without a C++ compiler.

Fast only in bfloat16 (float16 and float32 are far slower than a dense product) and for few rows;
group sizes 32, 64, 128 and 256.
"""

import torch
from torch import Tensor

from salient.core.quant import QuantizedWeight

from .base import Layer, PackedWeight

GROUP_SIZES = (32, 64, 128, 256)
OUTPUTS = 16  # `out` must be a multiple
INNER_K_TILES = 1  # the operator ignores it on a CPU


class TorchInt4Weight(PackedWeight):
    """The operator's packed weight, and two codes a byte for dequantization: 4 bits, group sizes 32
    to 256, outputs in multiples of 16, bfloat16.

    packed: uint8 [out, width / 2]   scales_zeros: bfloat16 [groups, out, 2]
    pairs: uint8 [out, width / 2]    scale: float32 [out, groups]   zero: uint8 [out, groups]
    """

    name = "torch-int4"
    packed: Tensor
    scales_zeros: Tensor
    pairs: Tensor
    scale: Tensor
    zero: Tensor

    @classmethod
    def unsupported(cls, layer: Layer) -> str | None:
        """Why `layer` is not supported, or PyTorch lacks the operator."""
        if layer.device.type != "cpu":
            return f"it computes on the CPU, not on {layer.device}"
        if layer.dtype != torch.bfloat16:
            return f"it is fast in bfloat16 only, not in {str(layer.dtype).removeprefix('torch.')}"
        if layer.scheme.bits != 4:
            return f"it takes 4 bits, not {layer.scheme.bits}"
        if (size := layer.scheme.group_size) not in GROUP_SIZES:
            return f"it takes group sizes {', '.join(map(str, GROUP_SIZES))}, not {size}"
        if layer.out % OUTPUTS:
            return f"it takes outputs in multiples of {OUTPUTS}, not {layer.out}"
        if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
            return f"PyTorch {torch.__version__} does not have it"
        return None

    def __init__(self, weight: QuantizedWeight, layer: Layer):
        super().__init__(weight, layer)
        codes = weight.codes.to(torch.int32)
        # The operator has (code - 8) * scale + zero; ours is (code - zero) * scale.
        shifted = (weight.scheme.middle - weight.zero.float()) * weight.scale
        self.store(
            packed=torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, INNER_K_TILES),
            scales_zeros=torch.stack((weight.scale.t(), shifted.t()), -1).bfloat16().contiguous(),
            pairs=weight.codes[:, 0::2] | (weight.codes[:, 1::2] << 4),
            scale=weight.scale,
            zero=weight.zero,
        )

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.width).bfloat16()
        if not len(rows):
            return x.new_empty(*x.shape[:-1], self.out)
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows, self.packed, self.scheme.group_size, self.scales_zeros
        )
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        codes = torch.stack((self.pairs & 15, self.pairs >> 4), -1).flatten(1)
        weight = QuantizedWeight(codes, self.scale, self.zero, self.scheme)
        return weight.dequantize().to(dtype)
