"""The fallback: the weight dequantized once, in the activations' dtype. Supports all schemes."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from salient.core.quant import QuantizedWeight

from .base import Layer, PackedWeight


class DenseWeight(PackedWeight):
    """The dequantized weight [out, width]: four times the memory of its codes. Supports every layer
    on every device."""

    name = "dense"
    weight: Tensor

    def __init__(self, weight: QuantizedWeight, layer: Layer):
        super().__init__(weight, layer)
        self.store(weight=weight.dequantize().to(layer.device, layer.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype))

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype)
