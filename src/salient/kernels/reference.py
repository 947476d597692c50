"""The definition: dequantize and multiply in float32. Slow, correct on every device."""

import torch
from torch import Tensor
from torch.nn.functional import linear

from salient.core.quant import QuantizedWeight

from .base import Kernel, Layer, PackedWeight


class ReferenceWeight(PackedWeight):
    """Codes, scale and zero of a QuantizedWeight."""

    kernel = "reference"

    def __init__(self, weight: QuantizedWeight, device: torch.device):
        super().__init__(*weight.codes.shape)
        self.scheme = weight.scheme
        self.store(
            codes=weight.codes.to(device),
            scale=weight.scale.to(device),
            zero=weight.zero.to(device),
        )

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] = x [..., width] @ W.T, computed in float32, in the dtype of `x`."""
        return linear(x.float(), self.dequantize(torch.float32)).to(x.dtype)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The dequantized weight [out, width] in `dtype`."""
        weight = QuantizedWeight(self.codes, self.scale, self.zero, self.scheme)  # type: ignore[arg-type]
        return weight.dequantize().to(dtype)


class ReferenceKernel(Kernel):
    """Supports every layer on every device."""

    name = "reference"

    def unsupported(self, layer: Layer) -> str | None:
        """None: every layer is supported."""
        return None

    def pack(self, weight: QuantizedWeight, layer: Layer) -> ReferenceWeight:
        """The codes, moved to the device."""
        return ReferenceWeight(weight, layer.device)
