"""AutoAWQ's GEMV layout (`version: gemv`): rows of outputs, codes and zeros in plain order.

qweight  int32   [out, in/8]
qzeros   int32   [out, words]     zeros of the groups, padded
scales   float16 [out, 8 words]   padded with 0 after the last group
"""

from typing import Any

from torch import Tensor

from salient.core.packing import unpack_nibbles
from salient.core.quant import QuantizedWeight
from salient.core.scheme import LayerSchemes, Scheme

from .autoawq import read_version

SUFFIXES = ("qweight", "qzeros", "scales")


def read_config(settings: dict[str, Any]) -> LayerSchemes:
    """The scheme of a `quantization_config`. Raises CheckpointError for other AWQ layouts."""
    return read_version(settings, "gemv")


def unpack(tensors: dict[str, Tensor], scheme: Scheme) -> QuantizedWeight:
    """The codes of one linear. Does not modify the input."""
    codes = unpack_nibbles(tensors["qweight"])
    groups = codes.shape[1] // scheme.group_size
    scale = tensors["scales"][:, :groups].float().contiguous()
    zero = unpack_nibbles(tensors["qzeros"])[:, :groups].contiguous()
    return QuantizedWeight(codes, scale, zero, scheme)
