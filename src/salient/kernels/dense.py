"""Kernels of every layer on every device: the definition, and the fallback."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from salient.core.quant import QuantizedWeight

from .base import Layer, PackedWeight


class DenseWeight(PackedWeight):
    """The fallback: dequantized once, [out, width], in the activations' dtype: four times the
    memory of its codes."""

    name = "dense"
    weight: Tensor

    def __init__(self, weight: QuantizedWeight, layer: Layer):
        super().__init__(weight, layer)
        self.store(weight=weight.dequantize().to(layer.device, layer.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype))

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype)


class ReferenceWeight(PackedWeight):
    """The definition: codes, dequantized and multiplied in float32 each time. Slow."""

    name = "reference"
    codes: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, weight: QuantizedWeight, layer: Layer):
        super().__init__(weight, layer)
        tensors = {"codes": weight.codes, "scale": weight.scale, "zero": weight.zero}
        self.store(**{name: tensor.to(layer.device) for name, tensor in tensors.items()})

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.float(), self.dequantize(torch.float32)).to(x.dtype)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        weight = QuantizedWeight(self.codes, self.scale, self.zero, self.scheme)
        return weight.dequantize().to(dtype)
