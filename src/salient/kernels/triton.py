"""NVIDIA and AMD GPUs, with Triton: 4-bit codes in memory, dequantized in registers.

Decoding reads the whole weight for each token, so its time is bytes over bandwidth: a quarter of
16-bit's. Three programs (`triton_kernels.py`), by the number of rows:

    rows        program                              why
    1 to 16     narrow    slices of the inputs       the weight's bytes are the time
    17 to 1023  wide      tiles, dequantized in      each tile serves many rows
                          registers
    1024 on     dequantize, then torch.mm            two passes over 16-bit weights are by then a
                                                     small part, and the vendor's product is best

Not supported: other bit widths, activations other than float16 and bfloat16, and CPUs (except
with TRITON_INTERPRET=1, Triton's slow interpreter, for tests).

Deterministic: no atomic additions, no tuning at run time.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from salient.core.errors import ModelError
from salient.core.packing import pack_nibbles
from salient.core.quant import QuantizedWeight

from .base import Layer, PackedWeight
from .triton_launch import BLOCK_IN, BLOCK_OUT, DTYPES, interpreted

OLDEST = (8, 0)  # bf16 tensor cores and asynchronous copies


class TritonWeight(PackedWeight):
    """Codes in the order of tensor-core operands, scales and zeros by group.

    packed: int16 [blocks of inputs, blocks of outputs, 32, 8], four codes each
    scale: int32 [groups, outputs / 2], two 16-bit scales each, or one float32 [groups, outputs]
    zero:  int32 [groups, outputs / 8], eight zeros each; empty if symmetric

    Outputs are padded to 16, inputs to 64. Scales are stored as integers so that a module's change
    of dtype cannot round them.
    """

    name = "triton"
    on_gpu = True

    @classmethod
    def unsupported(cls, layer: Layer) -> str | None:
        scheme = layer.scheme
        if importlib.util.find_spec("triton") is None:
            return "Triton is not installed; install it with: pip install 'salient-awq[gpu]'"
        if reason := _no_gpu(layer.device):
            return reason
        if scheme.bits != 4:
            return f"it reads codes of 4 bits, and {scheme} has {scheme.bits}"
        if layer.dtype not in DTYPES:
            return f"it multiplies float16 and bfloat16, and the activations are {layer.dtype}"
        if layer.width % scheme.group_size:
            return f"the group size {scheme.group_size} does not divide the width {layer.width}"
        return None

    def __init__(self, weight: QuantizedWeight, layer: Layer):
        super().__init__(weight, layer)
        rows = (0, 0, 0, -self.out % BLOCK_OUT)
        scale = weight.scale.to(layer.device)
        self.scale_dtype = exact_in(scale, layer.dtype)
        scale = pad(scale.to(self.scale_dtype), rows).t()
        zero = torch.empty(0, dtype=torch.int32, device=layer.device)
        if not weight.scheme.symmetric:
            zero = pack_nibbles(pad(weight.zero.to(layer.device), rows).t())
        self.store(
            packed=pack_codes(weight.codes.to(layer.device)),
            scale=scale.reshape(-1).view(torch.int32).unflatten(0, (len(scale), -1)),
            zero=zero,
        )

    def forward(self, x: Tensor) -> Tensor:
        """y [..., out] = x [..., width] @ W.T, in the dtype of `x`: float16 or bfloat16.

        Raises ModelError for another dtype.
        """
        if x.dtype not in DTYPES:
            raise ModelError(
                f"The triton kernel multiplies float16 and bfloat16, not {x.dtype}. "
                "Run the model in one of these, or use another kernel."
            )
        rows = x.reshape(-1, self.width).contiguous()
        y = torch.ops.salient.matmul_w4(rows, *self._operands())
        return y.reshape(*x.shape[:-1], self.out)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return torch.ops.salient.dequantize_w4(*self._operands(), self.width, dtype)

    def _operands(self) -> tuple[Any, ...]:
        """The weight's arguments of the operators."""
        facts = (self.scale_dtype, self.out, self.scheme.group_size)
        return (self.packed, self.scale, self.zero, *facts)


def _no_gpu(device: torch.device) -> str | None:
    """Why the programs do not run on `device`; None if they do."""
    if interpreted() and device.type == "cpu":
        return None
    if device.type != "cuda":
        return f"it runs on NVIDIA and AMD GPUs, and the device is {str(device)!r}"
    if not torch.cuda.is_available():
        return "torch finds no GPU here: this build has none, or the driver does not answer"
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < OLDEST:
        return (
            f"it needs compute capability {OLDEST[0]}.{OLDEST[1]} (Ampere) or later, "
            f"and {torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
        )
    return None


# Packing


def pack_codes(codes: Tensor) -> Tensor:
    """Codes uint8 [out, width] as words int16 [width / 64, out / 16, 32, 8], both rounded up.

    `triton_kernels.py` defines the order. Padding is code 0.
    """
    out, width = codes.shape
    full = pad(codes, (0, -width % BLOCK_IN, 0, -out % BLOCK_OUT))
    blocks = (full.shape[0] // BLOCK_OUT, full.shape[1] // BLOCK_IN)
    # [blocks of outputs, high bit, 8, blocks of inputs, plane, 4, 4], then without the planes
    planes = full.view(blocks[0], 2, 8, blocks[1], 4, 4, 4).unbind(4)
    packed = planes[0].to(torch.int32)
    for number, plane in enumerate(planes[1:], 1):
        packed |= plane.to(torch.int32) << (4 * number)
    packed = packed.permute(3, 0, 2, 4, 1, 5)  # [inputs, outputs, 8, 4, high bit, 4]
    return packed.to(torch.int16).reshape(blocks[1], blocks[0], 32, 8)  # wraps to the sign bit


def exact_in(scale: Tensor, dtype: torch.dtype) -> torch.dtype:
    """The smallest type that holds float32 `scale` exactly: `dtype` first, then the other 16-bit
    one, then float32."""
    for tried in (dtype, *DTYPES):
        if torch.equal(scale.to(tried).float(), scale):
            return tried
    return torch.float32
