"""Linear layers: quantized weights, and 16-bit weights with float32 activations."""

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear

from salient.kernels.base import PackedWeight
from salient.kernels.cpu_library import Library, dense_linear, half_matmul, load_library
from salient.kernels.registry import NEVER, dense_product


class QuantLinear(nn.Module):
    """A linear with a quantized weight; replaces an nn.Linear of the same shape.

    dense_rows, dense_dtype: from how many rows on a dense product in that dtype is faster
    """

    def __init__(
        self,
        packed: PackedWeight,
        bias: nn.Parameter | None = None,
        dense_rows: int = NEVER,
        dense_dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.packed, self.bias = packed, bias
        self.dense_rows, self.dense_dtype = dense_rows, dense_dtype
        self.in_features, self.out_features = packed.width, packed.out

    @property
    def weight(self) -> Tensor:
        """The weight float32 [out, in], dequantized on each access: models read its dtype."""
        return self.packed.dequantize(torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] = x [..., in] @ W.T + bias, in the dtype of `x`."""
        if x.numel() >= self.dense_rows * self.packed.width:
            y = dense_product(self.packed, x, self.dense_dtype)
        else:
            y = self.packed(x)
        return y if self.bias is None else y + self.bias


class HalfLinear(nn.Module):
    """A linear with a 16-bit weight, for activations of any dtype.

    weight: float16 or bfloat16 [out, in]   bias: [out] or None
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None):
        super().__init__()
        self.weight, self.bias = weight, bias
        library = load_library()
        self._library = library if isinstance(library, Library) else None
        self.out_features, self.in_features = weight.shape

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] = x [..., in] @ W.T + bias, in the dtype of `x`."""
        library = self._library
        if x.dtype == torch.float32 and x.device.type == "cpu" and library is not None:
            rows = x.reshape(-1, self.in_features).contiguous()
            if torch.compiler.is_compiling():
                y = half_matmul(rows, self.weight)
            else:
                y = library.multiply(dense_linear(self.weight, None), rows, self.out_features)
            y = y.reshape(*x.shape[:-1], self.out_features)
        else:
            y = linear(x.to(self.weight.dtype), self.weight).to(x.dtype)
        return y if self.bias is None else y + self.bias


class HalfEmbedding(nn.Module):
    """An embedding with a 16-bit weight; its output is in `dtype`, multiplied by `factor`.

    weight: float16 or bfloat16 [vocab, width]
    """

    def __init__(self, weight: nn.Parameter, dtype: torch.dtype, factor: float):
        super().__init__()
        self.weight, self.dtype, self.factor = weight, dtype, factor

    def forward(self, ids: Tensor) -> Tensor:
        """Rows [..., width] of the weight, multiplied in `dtype`."""
        return embedding(ids, self.weight).to(self.dtype) * self.factor
