"""Eight 4-bit codes in one int32 word: what formats and GPU kernels share of their packing."""

import torch
from torch import Tensor


def pack_nibbles(codes: Tensor) -> Tensor:
    """uint8 [rows, 8 packed] -> int32 [rows, packed]; the first code is in the lowest four bits."""
    pairs = codes[:, 0::2] | (codes[:, 1::2] << 4)
    return _plain(pairs).view(torch.int32)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """Exact inverse of `pack_nibbles`."""
    pairs = _plain(packed).view(torch.uint8)
    return torch.stack((pairs & 15, pairs >> 4), -1).flatten(1)


def _plain(tensor: Tensor) -> Tensor:
    """A contiguous copy whose strides are the usual ones, as viewing it as another type needs.

    `contiguous()` keeps odd strides where a dimension has size 1.
    """
    return tensor.clone(memory_format=torch.contiguous_format)
