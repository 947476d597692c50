"""Codes of 4 or 8 bits in int32 words: what formats and GPU kernels share of their packing."""

import torch
from torch import Tensor

WORD_BITS = 32


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """uint8 [rows, columns] -> int32 [rows, columns * bits / 32]; the first code is lowest.

    `columns` fill whole words.
    """
    return pack_nibbles(codes) if bits == 4 else _plain(codes).view(torch.int32)


def unpack_codes(packed: Tensor, bits: int) -> Tensor:
    """Exact inverse of `pack_codes`."""
    return unpack_nibbles(packed) if bits == 4 else _plain(packed).view(torch.uint8)


def unpack_fields(packed: Tensor, bits: int) -> Tensor:
    """int32 [rows, words] -> uint8 [rows, words * 32 / bits], of 2, 4 or 8 bits, lowest first."""
    if bits != 2:
        return unpack_codes(packed, bits)
    fours = _plain(packed).view(torch.uint8)
    return torch.stack([(fours >> shift) & 3 for shift in (0, 2, 4, 6)], -1).flatten(1)


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
