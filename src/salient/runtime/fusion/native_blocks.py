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
        a, m = parts.attention, parts.mlp
        attention = {
            **vars(a),
            "rotary_dim": 0 if a.cos is None else 2 * a.cos.shape[-1],
            "residual": parts.residual,
            "keys": cache.keys[index],
            "values": cache.values[index],
            "capacity": cache.capacity,
            "kv_kind": KINDS[cache.dtype],
        }
        mlp = {}
        if m.module is None:
            mlp = {**vars(m), "inner": m.down.in_features, "residual": parts.residual}
            mlp["act"] = ACTIVATIONS[m.act]
        return BlockC(self._struct(AttentionC, parts, attention), self._struct(MlpC, parts, mlp))

    def _struct(self, struct: type[Any], parts: FusedBlock, values: dict[str, Any]) -> Any:
        """The struct with the values of its fields' names; null for None."""
        names = [name for name, _ in struct._fields_ if values.get(name) is not None]
        return struct(**{name: self._value(parts, values[name]) for name in names})

    def _value(self, parts: FusedBlock, value: Any) -> Any:
        if isinstance(value, (int, float)):
            return value
        if isinstance(value, Norm):
            return NormC(self._value(parts, value.weight), value.eps)
        if isinstance(value, Tensor):
            self._references.append(value)
            return value.data_ptr()
        return self._linear(parts, value if isinstance(value, tuple) else (value,))

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
        linears = [x for b in blocks for x in (b.attention.qkv, b.attention.o)]
        linears += [x for b in blocks for x in (b.mlp.gate_up, b.mlp.down)]
        heads = [b.attention.heads * b.attention.head_dim for b in blocks]
        self.wide = max(linear.out for linear in linears)
        self.narrow = max(*heads, *(linear.width for linear in linears))
        coded = (x for x in linears if x.group and x.kind == CODES)
        self.groups = max((x.width // x.group for x in coded), default=0)
        self.scores = 3 * capacity
        self._rounded, self._rows, self._threads = ActivationBuffer(), 0, 0

    def batch(self, hidden: Tensor, slots: Tensor, positions: Tensor) -> BatchC:
        rows, width = hidden.shape
        if rows > self._rows or threads() > self._threads:
            self._rows, self._threads = max(rows, self._rows), max(threads(), self._threads)
            self._wide = torch.empty(self._rows * max(self.wide, width))
            self._narrow = torch.empty(self._rows * max(self.narrow, width))
            self._scores = torch.empty(self._threads * self.scores)
        self._where = (slots.contiguous(), positions.contiguous())
        room = self._rounded.of(rows * self.narrow, rows * self.groups)
        tensors = (*self._where, self._wide, self._narrow, self._scores)
        return BatchC(hidden.data_ptr(), rows, width, *(t.data_ptr() for t in tensors), room)
