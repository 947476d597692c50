"""Int4 on any CPU: C++ kernels (cpp/), built on the machine that runs them.

Activations of one group become int16 with a scale of their own, so that codes and activations
multiply and add as integers: one instruction multiplies 16 (AVX2) or 32 (AVX-512 VNNI) pairs, and
nothing is lost that bfloat16 or float16 would keep. Every result is the same whatever the number
of rows computed together.
"""

from copy import copy
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from salient.core.quant import QuantizedWeight, quantize
from salient.core.scheme import Scheme

from .base import Layer, PackedWeight
from .cpu_library import (
    INPUTS,
    LANES,
    Library,
    LinearC,
    codes_linear,
    codes_matmul,
    load_library,
    loaded_library,
)
from .dense import ReferenceWeight

LARGEST_GROUP = 256  # int32 holds the sum of 256 products of 15 and 32767, and rounding stays fine
# Relative to the largest output. Usual: 1e-5 to 3e-5; a wrong order of codes gives about 1.
TOLERANCE = 1e-3


class CpuWeight(PackedWeight):
    """Codes in blocks of 16 outputs and steps of 8 inputs; the layout of cpp/linear.h. 4 bits, any
    group size that is a multiple of 8, on a CPU with a C++ compiler.

    codes: uint8 [blocks, steps, 64]   scale: float32, zero: uint8 [blocks, groups, 16]
    """

    name = "cpu"
    codes: Tensor
    scale: Tensor
    zero: Tensor

    @classmethod
    def unsupported(cls, layer: Layer) -> str | None:
        """Why `layer` is not supported, there is no compiler, or the kernels fail their check."""
        if layer.device.type != "cpu":
            return f"it computes on the CPU, not on {layer.device}"
        if layer.scheme.bits != 4:
            return f"it takes 4 bits, not {layer.scheme.bits}"
        group = layer.scheme.group_size
        if group % INPUTS or span(group) > LARGEST_GROUP:
            return f"it takes group sizes that are multiples of {INPUTS}, not {group}"
        library = load_library()
        return library if isinstance(library, str) else _fails(library)

    def __init__(self, weight: QuantizedWeight, layer: Layer, library: Library | None = None):
        """Pack `weight`, its outputs padded to a multiple of 16. library: if not the usual one"""
        super().__init__(weight, layer)
        self.library = library or loaded_library()
        rows = (0, 0, 0, -self.out % LANES)
        parts = weight.scheme.group_size // span(weight.scheme.group_size)
        scale, zero = (
            pad(each.repeat_interleave(parts, 1), rows).unflatten(0, (-1, LANES)).mT.contiguous()
            for each in (weight.scale, weight.zero)
        )
        self.store(codes=_in_blocks(pad(weight.codes, rows)), scale=scale, zero=zero)

    def rows(self, start: int, stop: int) -> "CpuWeight | None":
        """A view of the outputs [start, stop) if they are whole blocks of 16."""
        if start % LANES or (stop % LANES and stop != self.out):
            return None
        view = copy(self)
        view.out, blocks = stop - start, slice(start // LANES, -(-stop // LANES))
        view._buffers = {name: buffer[blocks] for name, buffer in self.named_buffers()}
        return view

    def linear(self, bias: Tensor | None = None) -> LinearC:
        """The struct for C++; valid while this weight and `bias` [blocks * 16] exist."""
        return codes_linear(self.codes, self.scale, self.zero, bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.width).float().contiguous()
        if torch.compiler.is_compiling():
            y = codes_matmul(rows, self.codes, self.scale, self.zero, self.out)
        else:
            y = self.library.multiply(self.linear(), rows, self.out)
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return self.library.dequantize(self.linear())[: self.out].to(dtype)


def span(group_size: int) -> int:
    """Inputs that are summed as integers: the group, or a part of a large one."""
    if group_size <= LARGEST_GROUP:
        return group_size
    fits = (s for s in range(LARGEST_GROUP, 0, -INPUTS) if group_size % s == 0)
    return next(fits, group_size)


def _in_blocks(codes: Tensor) -> Tensor:
    """uint8 [out, width] -> uint8 [blocks, steps, 64]; see cpp/linear.h for the order."""
    parts = codes.unflatten(0, (-1, LANES)).unflatten(2, (-1, INPUTS // 2, 2))
    parts = parts.permute(0, 2, 1, 4, 3)  # blocks, steps, row, p, nibble
    low = parts[..., 0] | (parts[..., 1] << 4)
    high = parts[..., 2] | (parts[..., 3] << 4)
    return torch.stack((low, high), -1).flatten(2).contiguous()


@cache
def _fails(library: Library) -> str | None:
    """The error of the built kernels against the reference kernel, if it is too large."""
    seeded = torch.Generator().manual_seed(0)
    for scheme, out, rows in ((Scheme(64), 48, 5), (Scheme(8, symmetric=True), 21, 1)):
        dense = torch.randn(out, 3 * scheme.group_size, generator=seeded)
        weight = quantize(dense, scheme, name="check")
        x = torch.randn(rows, dense.shape[1], generator=seeded)
        layer = Layer(out, dense.shape[1], scheme, x.device, x.dtype)
        expected = ReferenceWeight(weight, layer)(x)
        error = (CpuWeight(weight, layer, library)(x) - expected).abs().max() / expected.abs().max()
        if not bool(error < TOLERANCE):
            return f"built for this processor, its results differ by {float(error):.1e}"
    return None
