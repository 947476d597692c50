"""Decoder blocks in C++: all blocks of a step in one call."""

import ctypes
from ctypes import byref
from typing import Any

import torch
from torch import Tensor, nn

from salient.kernels.cpu import CpuWeight
from salient.kernels.cpu_library import (
    ACTIVATIONS,
    CODES,
    KINDS,
    LANES,
    ActivationBuffer,
    AttentionC,
    BatchC,
    BlockC,
    Library,
    LinearC,
    MlpC,
    NormC,
    dense_linear,
    load_library,
    threads,
)
from salient.runtime.kv_cache import Batch, KeyValueCache
from salient.runtime.linear import QuantLinear

from .match import FusedBlock, MergedLinear, Norm, NotFusable
from .torch_blocks import run_mlp

MOST_ROWS = 512  # of one call: bounds the scratch memory


class NativeBlocks:
    """The blocks `parts`, with their keys and values in `cache`, as C++ calls.

    Raises NotFusable for parts that the C++ code does not support.
    """

    def __init__(self, parts: list[FusedBlock], cache: KeyValueCache):
        library = load_library()
        if not isinstance(library, Library):
            raise NotFusable(f"no C++ kernels: {library}")
        self.parts, self.library = parts, library
        self._references: list[Any] = []  # tensors that the structs point into
        self._blocks: Any = (BlockC * len(parts))()
        for index, block in enumerate(parts):
            self._blocks[index] = self._block(block, cache, index)
        self._room = _Workspace(self._blocks, cache.capacity)

    def __call__(self, hidden: Tensor, batch: Batch) -> Tensor:
        """The hidden states float32 [rows, width] after all blocks; `hidden` is overwritten."""
        hidden = hidden.contiguous()
        for start in range(0, len(hidden), MOST_ROWS):
            end = start + MOST_ROWS
            self._run(hidden[start:end], batch.slots[start:end], batch.positions[start:end])
        return hidden

    def _run(self, hidden: Tensor, slots: Tensor, positions: Tensor) -> None:
        where = self._room.batch(hidden, slots, positions)
        first = 0
        for index, block in enumerate(self.parts):
            if block.mlp.module is None and index + 1 < len(self.parts):
                continue  # runs in one call with the next blocks
            at = byref(self._blocks, first * ctypes.sizeof(BlockC))
            pointer = ctypes.cast(at, ctypes.POINTER(BlockC))
            self.library.blocks(pointer, index + 1 - first, byref(where), threads())
            first = index + 1
            if block.mlp.module is not None:
                hidden += block.residual * run_mlp(block, hidden)

    def _block(self, parts: FusedBlock, cache: KeyValueCache, index: int) -> BlockC:
        a = parts.attention
        attention = AttentionC(
            self._norm(a.before),
            self._norm(a.after),
            self._norm(a.q_norm),
            self._norm(a.k_norm),
            self._linear(parts, a.qkv),
            self._linear(parts, (a.o,)),
            a.heads,
            a.kv_heads,
            a.head_dim,
            0 if a.cos is None else 2 * a.cos.shape[-1],
            a.window,
            a.scaling,
            parts.residual,
            a.softcap,
            self._pointer(a.cos),
            self._pointer(a.sin),
            self._pointer(cache.keys[index]),
            self._pointer(cache.values[index]),
            cache.capacity,
            KINDS[cache.dtype],
        )
        m = parts.mlp
        if m.module is not None:
            return BlockC(attention, MlpC())
        mlp = MlpC(
            self._norm(m.before),
            self._norm(m.after),
            self._linear(parts, m.gate_up),
            self._linear(parts, (m.down,)),
            m.down.in_features,
            ACTIVATIONS[m.act],
            parts.residual,
        )
        return BlockC(attention, mlp)

    def _pointer(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._references.append(tensor)
        return tensor.data_ptr()

    def _norm(self, norm: Norm | None) -> NormC:
        return NormC() if norm is None else NormC(self._pointer(norm.weight), norm.eps)

    def _linear(self, parts: FusedBlock, linears: tuple[Any, ...]) -> LinearC:
        linear, *others = linears
        if others:
            raise NotFusable(f"{parts.name}: q, k, v or gate, up are not joined")
        bias = None if linear.bias is None else linear.bias.detach().float()
        if isinstance(linear, (QuantLinear, MergedLinear)) and isinstance(linear.packed, CpuWeight):
            if bias is not None:
                bias = torch.nn.functional.pad(bias, (0, -len(bias) % LANES))
            self._references += [linear.packed, bias]
            return linear.packed.linear(bias)
        if isinstance(linear, nn.Linear) and linear.weight.dtype in KINDS:
            self._references += [linear.weight, bias]
            return dense_linear(linear.weight, bias)
        raise NotFusable(f"{parts.name}: a {type(linear).__name__} has another weight layout")


class _Workspace:
    """Scratch memory of the blocks; grows with the number of rows."""

    def __init__(self, blocks: Any, capacity: int):
        linears = [
            linear
            for b in blocks
            for linear in (b.attention.qkv, b.attention.o, b.mlp.gate_up, b.mlp.down)
        ]
        heads = [b.attention.heads * b.attention.head_dim for b in blocks]
        self.wide = max(linear.out for linear in linears)
        self.narrow = max(*heads, *(linear.width for linear in linears))
        coded = (x for x in linears if x.group and x.kind == CODES)
        self.groups = max((x.width // x.group for x in coded), default=0)
        self.scores = 3 * capacity
        self._rounded, self._rows, self._threads = ActivationBuffer.empty(), 0, 0

    def batch(self, hidden: Tensor, slots: Tensor, positions: Tensor) -> BatchC:
        """The struct for these rows."""
        rows, width = hidden.shape
        if rows > self._rows or threads() > self._threads:
            self._rows, self._threads = max(rows, self._rows), max(threads(), self._threads)
            self._wide = torch.empty(self._rows * max(self.wide, width))
            self._narrow = torch.empty(self._rows * max(self.narrow, width))
            self._scores = torch.empty(self._threads * self.scores)
        self._where = (slots.contiguous(), positions.contiguous())
        return BatchC(
            hidden.data_ptr(),
            rows,
            width,
            *(tensor.data_ptr() for tensor in self._where),
            self._wide.data_ptr(),
            self._narrow.data_ptr(),
            self._scores.data_ptr(),
            self._rounded.of(rows * self.narrow, rows * self.groups),
        )
