"""AutoAWQ's Marlin layout (`version: marlin`): symmetric codes in tiles of 16 x 16 for that kernel.

    qweight  int32   [in/16, 2 out]   eight codes a word, permuted over 1024
    scales   float16 [groups, out]    permuted over 64, or over 32 where one group has all inputs

The permutations are those of AutoAWQ 0.2.9 (modules/linear/marlin.py), inverted.
"""

from typing import Any

import torch
from torch import Tensor

from salient.core.packing import unpack_nibbles
from salient.core.quant import QuantizedWeight
from salient.core.scheme import LayerSchemes, Scheme

from .autoawq import read_version

SUFFIXES = ("qweight", "scales")
_TILE = 16


def read_config(settings: dict[str, Any]) -> LayerSchemes:
    """The scheme of a `quantization_config`. Raises CheckpointError for other AWQ layouts."""
    scheme = read_version(settings, "marlin").main
    return LayerSchemes(Scheme(scheme.group_size, symmetric=True))


def unpack(tensors: dict[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """The codes of one linear. Does not modify the input."""
    fields = unpack_nibbles(tensors["qweight"])
    rows, count = fields.shape
    width, out = rows * _TILE, count // _TILE
    order = _code_order()
    tiles = fields.reshape(-1, len(order))[:, torch.argsort(order)]
    codes = tiles.reshape(rows, out // _TILE, _TILE, _TILE).permute(1, 3, 0, 2).reshape(out, width)
    scales = tensors["scales"]
    order = _scale_order(single=scheme.group_size == width)
    scale = scales.reshape(-1, len(order))[:, torch.argsort(order)].reshape(scales.shape)
    zero = torch.full((out, len(scales)), scheme.middle, dtype=torch.uint8)
    return QuantizedWeight(codes.contiguous(), scale.t().float().contiguous(), zero, scheme)


def _code_order() -> Tensor:
    """Where each of 1024 stored codes is in four tiles that follow one another."""
    order: list[int] = []
    for lane in range(32):
        rows = [2 * (lane % 4) + step for step in (0, 1, 8, 9)]
        places = [16 * row + lane // 4 + 8 * block for block in (0, 1) for row in rows]
        order += [place + 256 * tile for tile in range(4) for place in places]
    eights = torch.tensor(order).reshape(-1, 8)
    return eights[:, [0, 2, 4, 6, 1, 3, 5, 7]].flatten()


def _scale_order(*, single: bool) -> Tensor:
    """Where each stored scale of a row is."""
    if single:
        return torch.tensor(
            [2 * lane + step for lane in range(4) for step in (0, 1, 8, 9, 16, 17, 24, 25)]
        )
    return torch.arange(64).reshape(8, 8).t().flatten()
