"""GPT-OSS's experts in MXFP4 (`quant_method: mxfp4`): stacked, two values a byte, blocks of 32.

    x_blocks  uint8 [experts, rows, groups, 16]   E2M1, the lower four bits first
    x_scales  uint8 [experts, rows, groups]       exponents, 2^(byte - 127)

The parameter `x` is [experts, in, out]: Transformers (integrations/mxfp4.py) swaps the axes.
"""

from typing import Any

import torch
from torch import Tensor

from salient.core.model_files import StoredTensor

from .scaled_values import fp4_values, scale_values
from .stored_parts import StoredLinear

MARKERS = ("_blocks",)
BASES = ("_blocks",)
PARTS = ("_blocks", "_scales")
SIBLINGS = ()


def read_config(settings: dict[str, Any]) -> None:
    """No setting changes how the experts are stored."""


def dequantize(tensors: dict[str, Tensor], linear: StoredLinear) -> Tensor:
    """The experts' weights, float32 [experts, in, out], exact."""
    blocks, scales = tensors["_blocks"], tensors["_scales"]
    fits = blocks.dtype == scales.dtype == torch.uint8 and blocks.shape[:-1] == scales.shape
    if not fits or blocks.ndim < 3 or blocks.shape[-1] != 16:
        raise linear.misfit(tensors)
    values = fp4_values(blocks).mul_(scale_values(scales)[..., None]).flatten(-2)
    return values.transpose(-1, -2).contiguous()


def count_weights(headers: dict[str, StoredTensor], linear: StoredLinear) -> int:
    """How many weights the stored tensors of one parameter are."""
    return headers["_blocks"].elements * 2
