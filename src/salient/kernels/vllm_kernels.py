"""vLLM's kernels Marlin and Machete, where vLLM is installed.

For comparison only: never selected automatically and never installed by Salient, because vLLM pins
its own versions. Written from the signatures of vLLM 0.32 and not run: no test machine has its CUDA
build. If another version differs, `unsupported` or the first call reports it.
"""

import contextlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor

from salient.core.dtypes import SIXTEEN_BITS
from salient.core.errors import MissingExtra, ModelError
from salient.core.packing import pack_nibbles
from salient.core.quant import QuantizedWeight

from .base import Layer, PackedWeight


class ForeignWeight(PackedWeight):
    """A weight in the layout of a vLLM kernel, with the limits of vLLM 0.32."""

    on_gpu = True
    operator: ClassVar[str]
    group_sizes: ClassVar[tuple[int, ...]]

    @classmethod
    def unsupported(cls, layer: Layer) -> str | None:
        try:
            _vllm("vllm._custom_ops")
        except MissingExtra as error:
            return str(error)
        if not hasattr(torch.ops._C, cls.operator):
            return f"the vLLM that is installed has no {cls.operator}: it is not a CUDA build"
        half = layer.dtype in SIXTEEN_BITS.values()
        if layer.device.type != "cuda" or not half or layer.scheme.bits != 4:
            return "it takes 4 bits, float16 or bfloat16, and an NVIDIA GPU"
        if layer.scheme.group_size not in cls.group_sizes:
            return f"it takes groups of {cls.group_sizes}, not {layer.scheme.group_size}"
        if layer.out % 128 or layer.width % 128:
            return f"{layer.out} x {layer.width} is not made of multiples of 128"
        return None

    def __init__(self, weight: QuantizedWeight, layer: Layer):
        super().__init__(weight, layer)
        packed = pack_gptq(weight.codes.to(layer.device))
        scale = weight.scale.t().to(layer.device, layer.dtype).contiguous()
        zero = weight.zero.t().to(layer.device, torch.int32).contiguous()
        with _same_version(self.name):
            self.prepare(packed, scale, zero)

    def prepare(self, packed: Tensor, scale: Tensor, zero: Tensor) -> None:
        """Store the weight: packed int32 [width / 8, out], scale and zero int32 [groups, out]."""
        raise NotImplementedError

    def product(self, x: Tensor) -> Tensor:
        """y [rows, out] = x [rows, width] @ W.T."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        with _same_version(self.name):
            return self.product(x.reshape(-1, self.width)).reshape(*x.shape[:-1], self.out)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight [out, width] in `dtype`: the kernel times the identity."""
        scale = self.get_buffer("scale")
        ones = torch.eye(self.width, dtype=scale.dtype, device=scale.device)
        return self(ones).t().to(dtype)

    @property
    def type(self) -> Any:
        """vLLM's scalar type of the codes: with zero points, or biased by 8."""
        types = _vllm("vllm.scalar_type").scalar_types
        return types.uint4b8 if self.scheme.symmetric else types.uint4


class MarlinWeight(ForeignWeight):
    """Marlin's layout, for Ampere and newer."""

    name, operator, group_sizes = "marlin", "marlin_gemm", (32, 64, 128)

    def prepare(self, packed: Tensor, scale: Tensor, zero: Tensor) -> None:
        ops = _vllm("vllm._custom_ops")
        tools = _vllm("vllm.model_executor.layers.quantization.utils.marlin_utils")
        sizes = (self.width, self.out)
        if not self.scheme.symmetric:
            zero = tools.marlin_zero_points(zero, *zero.shape, 4)
        self.store(
            packed=ops.gptq_marlin_repack(packed, *sizes, 4),
            scale=tools.marlin_permute_scales(scale, *sizes, self.scheme.group_size),
            zero=zero,
            workspace=tools.marlin_make_workspace_new(packed.device),
        )

    def product(self, x: Tensor) -> Tensor:
        sizes = {"size_m": x.shape[0], "size_n": self.out, "size_k": self.width}
        return _vllm("vllm._custom_ops").marlin_gemm(
            x, None, self.packed, None, self.scale, None, None,
            None if self.scheme.symmetric else self.zero, self.workspace, self.type,
            **sizes, use_fp32_reduce=True,
        )  # fmt: skip


class MacheteWeight(ForeignWeight):
    """Machete's layout, for Hopper: zeros multiplied by their scales."""

    name, operator, group_sizes = "machete", "machete_mm", (64, 128)

    def prepare(self, packed: Tensor, scale: Tensor, zero: Tensor) -> None:
        prepack = _vllm("vllm._custom_ops").machete_prepack_B
        columns = packed.t().contiguous().t()
        self.store(
            packed=prepack(columns, scale.dtype, self.type, scale.dtype),
            scale=scale,
            zero=-scale * zero.to(scale.dtype),
        )

    def product(self, x: Tensor) -> Tensor:
        return _vllm("vllm._custom_ops").machete_mm(
            a=x, b_q=self.packed, b_type=self.type, b_group_scales=self.scale,
            b_group_zeros=None if self.scheme.symmetric else self.zero,
            b_group_size=self.scheme.group_size,
        )  # fmt: skip


def pack_gptq(codes: Tensor) -> Tensor:
    """Codes uint8 [out, width] as int32 [width / 8, out], the first of eight in the low bits."""
    return pack_nibbles(codes).t().contiguous()


@contextlib.contextmanager
def _same_version(name: str) -> Iterator[None]:
    """Raises ModelError where vLLM's kernel has other signatures."""
    try:
        yield
    except (TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"vLLM's {name} does not take what that of vLLM 0.32 takes: "
            f"{str(error).splitlines()[0]}. Compare with another version, or without it."
        ) from error


def _vllm(module: str) -> Any:
    """A module of vLLM. Raises MissingExtra if it cannot be imported."""
    try:
        return import_module(module)
    except (ImportError, AttributeError) as error:
        raise MissingExtra(
            f"{module} cannot be imported ({error}). To compare with it, run the benchmark in an "
            "environment that has vLLM."
        ) from None
