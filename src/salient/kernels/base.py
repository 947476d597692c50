"""The kernel interface: pack a quantized weight and multiply by it.

    y = x @ W.T        x [..., in], W [out, in] = (codes - zero) * scale, y [..., out]

A kernel packs the weight in its own layout, from the same codes; none rounds a weight again.
`reference` is the definition that the others are tested against.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from salient.core.quant import QuantizedWeight
from salient.core.scheme import Scheme


@dataclass(frozen=True)
class Layer:
    """A linear layer: W [out, width] of `scheme`, on `device`.

    dtype: of the activations, in and out
    """

    out: int
    width: int
    scheme: Scheme
    device: torch.device
    dtype: torch.dtype


class PackedWeight(nn.Module):
    """A kernel, and a weight in its layout; the tensors are buffers.

    name: of the kernel   on_gpu: whether it is for GPUs
    out, width: the shape of the dequantized weight
    """

    name: ClassVar[str]
    on_gpu: ClassVar[bool] = False

    @classmethod
    def unsupported(cls, layer: Layer) -> str | None:
        """Why this kernel does not support `layer` here; None if it does."""
        return None

    def __init__(self, weight: QuantizedWeight, layer: Layer):
        """Pack `weight`, on the device of a supported `layer`."""
        super().__init__()
        self.out, self.width = weight.codes.shape
        self.scheme = weight.scheme

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] = x [..., width] @ W.T, in the dtype of `x`."""
        raise NotImplementedError

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The dequantized weight [out, width] in `dtype`."""
        raise NotImplementedError

    def rows(self, start: int, stop: int) -> "PackedWeight | None":
        """A view of the outputs [start, stop), or None if the layout has none.

        With views, weights of the same input are packed as one and used alone or together.
        """
        return None

    @property
    def bytes(self) -> int:
        return sum(b.numel() * b.element_size() for b in self.buffers())

    def store(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)
