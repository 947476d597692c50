"""What every kernel is: a way to hold a weight of codes, and to multiply by it.

    y = x @ W.T        x [..., in], W [out, in] = (codes - zero) * scale, y [..., out]

A kernel keeps the weight in an order of its own, made from the same codes; none of them rounds a
weight again. `reference` is the definition that the others are held to.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from salient.core.quant import QuantizedWeight
from salient.core.scheme import Scheme


@dataclass(frozen=True)
class Layer:
    """The layer that a kernel is asked to take: W [out, width] of `scheme`, on `device`.

    dtype: of the activations, in and out
    """

    out: int
    width: int
    scheme: Scheme
    device: torch.device
    dtype: torch.dtype


class PackedWeight(nn.Module, ABC):
    """A weight as one kernel keeps it; its tensors are buffers.

    kernel: the kernel's name
    out, width: the shape of the weight that it stands for
    """

    kernel: ClassVar[str]

    def __init__(self, out: int, width: int):
        super().__init__()
        self.out, self.width = out, width

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] = x [..., width] @ W.T, in the dtype of `x`."""

    @abstractmethod
    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, width] that the codes stand for, in `dtype`."""

    def rows(self, start: int, stop: int) -> "PackedWeight | None":
        """The outputs [start, stop) as a weight that shares this one's memory; None if it cannot.

        Where it can, weights with the same input are packed as one and used alone or together.
        """
        return None

    @property
    def bytes(self) -> int:
        """Bytes of memory that the weight takes."""
        return sum(b.numel() * b.element_size() for b in self.buffers())

    def store(self, **tensors: Tensor) -> None:
        """Keep `tensors` as buffers, which no state dict shows."""
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)


class Kernel(ABC):
    """A way to multiply by codes."""

    name: ClassVar[str]

    @abstractmethod
    def unsupported(self, layer: Layer) -> str | None:
        """Why this kernel cannot take `layer` here, in words; None if it can."""

    @abstractmethod
    def pack(self, weight: QuantizedWeight, layer: Layer) -> PackedWeight:
        """`weight` as this kernel keeps it, on the layer's device. It does not refuse `layer`."""
