"""The fallback: the weight dequantized once, in the activations' type. Takes all schemes."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from salient.core.quant import QuantizedWeight

from .base import Kernel, Layer, PackedWeight


class DenseWeight(PackedWeight):
    """The weight [out, width] as it is multiplied: four times the memory of its codes."""

    kernel = "dense"

    def __init__(self, weight: QuantizedWeight, layer: Layer):
        super().__init__(*weight.codes.shape)
        self.store(weight=weight.dequantize().to(layer.device, layer.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] = x [..., width] @ W.T, in the dtype of `x`."""
        return linear(x, self.weight.to(x.dtype))  # type: ignore[operator]

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, width] that the codes stand for, in `dtype`."""
        return self.weight.to(dtype)  # type: ignore[operator]


class DenseKernel(Kernel):
    """Takes every layer on every device."""

    name = "dense"

    def unsupported(self, layer: Layer) -> str | None:
        """Nothing is refused."""
        return None

    def pack(self, weight: QuantizedWeight, layer: Layer) -> DenseWeight:
        """The dequantized weight, on the layer's device."""
        return DenseWeight(weight, layer)
