"""The fallback: the weight dequantized once, in the activations' dtype. Supports all schemes."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from salient.core.quant import QuantizedWeight

from .base import Kernel, Layer, PackedWeight


class DenseWeight(PackedWeight):
    """The dequantized weight [out, width]: four times the memory of its codes."""

    kernel = "dense"

    def __init__(self, weight: QuantizedWeight, layer: Layer):
        super().__init__(*weight.codes.shape)
        self.store(weight=weight.dequantize().to(layer.device, layer.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] = x [..., width] @ W.T, in the dtype of `x`."""
        return linear(x, self.weight.to(x.dtype))  # type: ignore[operator]

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The dequantized weight [out, width] in `dtype`."""
        return self.weight.to(dtype)  # type: ignore[operator]


class DenseKernel(Kernel):
    """Supports every layer on every device."""

    name = "dense"

    def unsupported(self, layer: Layer) -> str | None:
        """None: every layer is supported."""
        return None

    def pack(self, weight: QuantizedWeight, layer: Layer) -> DenseWeight:
        """The dequantized weight, on the layer's device."""
        return DenseWeight(weight, layer)
