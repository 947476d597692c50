"""The definition: dequantize and multiply in float32. Slow, correct on every device."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from salient.core.quant import QuantizedWeight

from .base import Layer, PackedWeight


class ReferenceWeight(PackedWeight):
    """Codes, scale and zero of a QuantizedWeight. Supports every layer on every device."""

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
