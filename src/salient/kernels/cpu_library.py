"""Bindings of the C++ kernels: structs and functions of cpp/*.h, through ctypes."""

import ctypes
from ctypes import POINTER, Structure, byref, c_float, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .cpu_build import NotBuilt, built_library

LANES, INPUTS = 16, 8  # outputs of a block, inputs of a step: cpp/linear.h
CODES, BFLOAT16, FLOAT16, FLOAT32 = range(4)
KINDS = {torch.bfloat16: BFLOAT16, torch.float16: FLOAT16, torch.float32: FLOAT32}
ACTIVATIONS = {"silu": 0, "gelu_tanh": 1, "gelu": 2}
INSTRUCTIONS = ("plain C++", "AVX2", "AVX-512", "AVX-512 VNNI")


class LinearC(Structure):
    """`Linear` of cpp/linear.h."""

    _fields_ = (
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("zero", c_void_p),
        ("bias", c_void_p),
        ("out", c_int64),
        ("width", c_int64),
        ("group", c_int64),
        ("kind", c_int32),
    )


class RoundedC(Structure):
    """`Rounded` of cpp/linear.h."""

    _fields_ = (("x", c_void_p), ("scale", c_void_p), ("sum", c_void_p))


class NormC(Structure):
    """`Norm` of cpp/attention.h."""

    _fields_ = (("weight", c_void_p), ("eps", c_float))


class AttentionC(Structure):
    """`Attention` of cpp/attention.h."""

    _fields_ = (
        ("before", NormC),
        ("after", NormC),
        ("q_norm", NormC),
        ("k_norm", NormC),
        ("qkv", LinearC),
        ("o", LinearC),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("rotary_dim", c_int64),
        ("window", c_int64),
        ("scaling", c_float),
        ("residual", c_float),
        ("softcap", c_float),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("capacity", c_int64),
        ("kept", c_int32),
    )


class MlpC(Structure):
    """`Mlp` of cpp/block.h."""

    _fields_ = (
        ("before", NormC),
        ("after", NormC),
        ("gate_up", LinearC),
        ("down", LinearC),
        ("inner", c_int64),
        ("act", c_int32),
        ("residual", c_float),
    )


class BlockC(Structure):
    """`Block` of cpp/block.h."""

    _fields_ = (("attention", AttentionC), ("mlp", MlpC))


class BatchC(Structure):
    """`Batch` of cpp/attention.h."""

    _fields_ = (
        ("hidden", c_void_p),
        ("rows", c_int64),
        ("width", c_int64),
        ("slots", c_void_p),
        ("positions", c_void_p),
        ("wide", c_void_p),
        ("narrow", c_void_p),
        ("scores", c_void_p),
        ("room", RoundedC),
    )


@dataclass
class ActivationBuffer:
    """A reusable buffer for rounded activations; grows on demand."""

    x: Tensor
    scale: Tensor
    sum: Tensor

    @staticmethod
    def empty() -> "ActivationBuffer":
        """An empty buffer."""
        return ActivationBuffer(torch.empty(0, dtype=torch.int16), torch.empty(0), torch.empty(0))

    def of(self, values: int, groups: int) -> RoundedC:
        """Room for `values` activations in `groups` groups."""
        if self.x.numel() < values:
            self.x = torch.empty(values, dtype=torch.int16)
        if self.scale.numel() < groups:
            self.scale, self.sum = torch.empty(groups), torch.empty(groups)
        return RoundedC(self.x.data_ptr(), self.scale.data_ptr(), self.sum.data_ptr())


class Library:
    """The functions of cpp/native.cpp.

    instructions: the instruction set that they use
    threaded: whether they were built with OpenMP
    """

    def __init__(self, path: str):
        dll = ctypes.CDLL(path)
        self._multiply = _function(
            dll.salient_multiply,
            POINTER(LinearC),
            c_void_p,
            c_int64,
            c_int64,
            c_void_p,
            c_int64,
            RoundedC,
            c_int32,
        )
        self._dequantize = _function(dll.salient_dequantize, POINTER(LinearC), c_void_p, c_int32)
        self.blocks = _function(
            dll.salient_blocks, POINTER(BlockC), c_int64, POINTER(BatchC), c_int32
        )
        self.instructions = INSTRUCTIONS[dll.salient_instructions()]
        self.threaded = bool(dll.salient_has_threads())
        self._room = ActivationBuffer.empty()

    def multiply(self, linear: LinearC, x: Tensor, out: int) -> Tensor:
        """y float32 [rows, out] = x float32 [rows, inputs] @ W.T."""
        rows, inputs = x.shape
        y = torch.empty(rows, out)
        groups = linear.width // linear.group if linear.kind == CODES else 0
        room = self._room.of(rows * linear.width, rows * groups)
        self._multiply(
            byref(linear), x.data_ptr(), inputs, rows, y.data_ptr(), out, room, threads()
        )
        return y

    def dequantize(self, linear: LinearC) -> Tensor:
        """The weight float32 [linear.out, linear.width], padding included."""
        weight = torch.empty(linear.out, linear.width)
        self._dequantize(byref(linear), weight.data_ptr(), threads())
        return weight


def _function(function: Any, *types: Any) -> Any:
    function.argtypes, function.restype = types, None
    return function


def threads() -> int:
    """Threads of the kernels: those of torch."""
    return torch.get_num_threads()


@cache
def load_library() -> Library | str:
    """The kernels built for this machine, or the reason why there are none."""
    try:
        return Library(str(built_library()))
    except NotBuilt as error:
        return str(error)
    except OSError as error:
        return f"the built library cannot be loaded ({error})"


@torch.library.custom_op("salient::codes_matmul", mutates_args=())
def codes_matmul(x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, out: int) -> Tensor:
    """y float32 [rows, out] = x float32 [rows, width] @ W.T, as torch.compile can call it."""
    return _there().multiply(codes_linear(codes, scale, zero, None), x, out)


@torch.library.custom_op("salient::half_matmul", mutates_args=())
def half_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """y float32 [rows, out] = x float32 [rows, in] @ W.T for a 16-bit W [out, in]."""
    return _there().multiply(dense_linear(weight, None), x, weight.shape[0])


@codes_matmul.register_fake
def _(x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor, out: int) -> Tensor:
    return x.new_empty(x.shape[0], out)


@half_matmul.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _there() -> Library:
    library = load_library()
    assert isinstance(library, Library)
    return library


def codes_linear(codes: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None) -> LinearC:
    """The struct for packed codes; it points into these tensors without owning them."""
    blocks, groups = scale.shape[:2]
    width = codes.shape[1] * INPUTS
    pointers = (_pointer(codes), _pointer(scale), _pointer(zero), _pointer(bias))
    return LinearC(*pointers, blocks * LANES, width, width // groups, CODES)


def dense_linear(weight: Tensor, bias: Tensor | None) -> LinearC:
    """The struct for a weight of floats [out, in]; it points into these tensors."""
    out, width = weight.shape
    pointers = (_pointer(weight), None, None, _pointer(bias))
    return LinearC(*pointers, out, width, width, KINDS[weight.dtype])


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
