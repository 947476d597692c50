"""Launch the Triton programs: settings by rows, parts, and two PyTorch operators.

The operators are opaque to torch.compile, which calls them as they are: no graph breaks, and CUDA
graphs capture them. They allocate their results and launch; nothing waits for the GPU.
"""

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

BLOCK_OUT, BLOCK_IN = 16, 64  # a block of the packed weight
DTYPES = (torch.float16, torch.bfloat16)
MOST_PARTS = 8  # more would write more sums than they save waiting
SUM_SIZE = 256  # elements of y that one program of `add` makes


@dataclass(frozen=True)
class ProgramSettings:
    """Settings of `narrow` or `wide`, up to `rows` rows.

    rows_tile, out_tile: the tile of y   stages: of the pipeline
    blocks: of inputs a step, of `narrow`   across: tiles of rows in a band, of `wide`
    """

    rows: int
    rows_tile: int
    out_tile: int
    warps: int
    stages: int
    blocks: int = 1
    across: int = 1

    def fitted(self, group_size: int) -> "ProgramSettings":
        """These settings adapted to the group size: no group may end inside a step."""
        blocks = self.blocks if group_size % (self.blocks * BLOCK_IN) == 0 else 1
        # Other groups take a scale and a zero for each code, too many to be loaded ahead.
        return replace(self, blocks=blocks, stages=1 if group_size % 16 else self.stages)


@dataclass(frozen=True)
class LaunchSettings:
    """All settings of one kind of GPU, by rising rows."""

    narrow: tuple[ProgramSettings, ...]
    wide: tuple[ProgramSettings, ...]


# Narrow: 32 outputs a program give 4096 outputs to 128 multiprocessors; eight warps hide each
# other's waits; two blocks a step halve the steps' overhead. With 16 rows x takes as many bytes as
# the weight at 64 outputs, and more at fewer. All fit the 99 KB of a consumer GPU's shared memory.
_NARROW = (ProgramSettings(8, 8, 32, 8, 3, blocks=2), ProgramSettings(16, 16, 64, 8, 3))
_WIDE = (ProgramSettings(32, 32, 128, 4, 4), ProgramSettings(64, 64, 128, 4, 4))
KINDS = {
    # Four warps are one warpgroup, and two programs share a multiprocessor: one dequantizes while
    # the other multiplies.
    "hopper": LaunchSettings(_NARROW, (*_WIDE, ProgramSettings(1023, 128, 128, 4, 3, across=8))),
    # With four warps a tile of 128 by 128 does not fit the registers; eight share what they
    # dequantize through shared memory.
    "nvidia": LaunchSettings(_NARROW, (*_WIDE, ProgramSettings(1023, 128, 128, 8, 3, across=8))),
    # Matrix cores take no fewer than 16 rows, and a compute unit has 64 KB to share.
    "amd": LaunchSettings(
        (ProgramSettings(16, 16, 32, 8, 2),),
        (
            ProgramSettings(32, 32, 128, 8, 2),
            ProgramSettings(64, 64, 128, 8, 2),
            ProgramSettings(1023, 128, 128, 8, 2, across=8),
        ),
    ),
}
MOST_ROWS = 1023  # beyond: dequantize once, then torch.mm


@lru_cache
def settings_of(device: torch.device) -> LaunchSettings:
    """The settings of the GPU; the interpreter has NVIDIA's."""
    if torch.version.hip is not None:
        return KINDS["amd"]
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10):
        return KINDS["hopper"]
    return KINDS["nvidia"]


def interpreted() -> bool:
    """Whether Triton's interpreter replaces the GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class PackedOperands:
    """A packed weight as arguments of the programs."""

    packed: Tensor
    scale: Tensor
    zero: Tensor
    scale_dtype: torch.dtype
    out: int
    group_size: int

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        zero = self.zero if self.zero.numel() else self.scale  # never read where symmetric
        return self.packed, self.scale, zero

    def sizes(self, width: int) -> tuple[int, ...]:
        """out, width, padded outputs, blocks of inputs, groups."""
        blocks, outs = self.packed.shape[:2]
        return self.out, width, outs * BLOCK_OUT, blocks, self.scale.shape[0]

    def form(self, dtype: torch.dtype) -> tuple[Any, ...]:
        """The constants that programs are compiled for."""
        ptx = torch.version.hip is None and not interpreted() and dtype in DTYPES
        symmetric = self.zero.numel() == 0
        types = (_of(self.scale_dtype), _of(dtype))
        return (self.group_size, symmetric, *types, ptx, interpreted())


def matmul(x: Tensor, weight: PackedOperands) -> Tensor:
    """y [rows, out] = x [rows, width] @ W.T. Asynchronous."""
    rows, width = x.shape
    if rows == 0 or rows > MOST_ROWS:
        return torch.mm(x, dequantized(weight, width, x.dtype).t())
    with torch.cuda.device_of(x):
        for narrow in settings_of(x.device).narrow:
            if rows <= narrow.rows:
                return run_narrow(x, weight, narrow.fitted(weight.group_size))
        wide = next(s for s in settings_of(x.device).wide if rows <= s.rows)
        return run_wide(x, weight, wide.fitted(weight.group_size))


def dequantized(weight: PackedOperands, width: int, dtype: torch.dtype) -> Tensor:
    """The weight [out, width] in `dtype`."""
    dense = weight.packed.new_empty(weight.out, width, dtype=dtype)
    sizes, slices = weight.sizes(width), 4
    grid = (sizes[2] // BLOCK_OUT, -(-sizes[3] // slices))
    with torch.cuda.device_of(weight.packed):
        _programs().dequantize[grid](
            *weight.tensors(), dense, *sizes, FORM=weight.form(dtype), S=slices, num_warps=4
        )
    return dense


def run_narrow(x: Tensor, weight: PackedOperands, s: ProgramSettings) -> Tensor:
    """y by `narrow`: parts of the inputs, each of `warps` slices."""
    rows, width = x.shape
    tiles = (-(-weight.out // s.out_tile), -(-rows // s.rows_tile))
    blocks = weight.packed.shape[0]
    parts = parts_of(tiles[0] * tiles[1], -(-blocks // (s.blocks * s.warps)), x.device)
    steps = -(-blocks // (s.blocks * s.warps * parts))
    y = _sums(x, weight.out, parts)
    _programs().narrow[(*tiles, parts)](
        x, *weight.tensors(), y, rows, *weight.sizes(width), steps, FORM=weight.form(x.dtype),
        BM=s.rows_tile, BN=s.out_tile, S=s.warps, KB=s.blocks,
        EVEN=width == steps * parts * s.warps * s.blocks * BLOCK_IN, STAGES=s.stages,
        num_warps=s.warps,
    )  # fmt: skip
    return _added(y, x)


def run_wide(x: Tensor, weight: PackedOperands, s: ProgramSettings) -> Tensor:
    rows, width = x.shape
    tiles = -(-weight.out // s.out_tile) * -(-rows // s.rows_tile)
    blocks = weight.packed.shape[0]
    parts = parts_of(tiles, blocks // 4, x.device)
    steps = -(-blocks // parts)
    y = _sums(x, weight.out, parts)
    _programs().wide[(tiles, parts)](
        x, *weight.tensors(), y, rows, *weight.sizes(width), steps, FORM=weight.form(x.dtype),
        BM=s.rows_tile, BN=s.out_tile, ACROSS=s.across,
        EVEN=width == steps * parts * BLOCK_IN, STAGES=s.stages, num_warps=s.warps,
    )  # fmt: skip
    return _added(y, x)


def parts_of(tiles: int, most: int, device: torch.device) -> int:
    """The number of parts of the inputs at which `tiles` programs a part fill the GPU.

    A power of two, at most `most`; 1 where nine tenths of the multiprocessors have work already.
    """
    parts = 1
    while parts < min(MOST_PARTS, most // 2 + 1) and 10 * tiles * parts < 9 * processors(device):
        parts *= 2
    return parts


@lru_cache
def processors(device: torch.device) -> int:
    """Multiprocessors of the GPU; 8 for the interpreter."""
    if device.type != "cuda":
        return 8
    return torch.cuda.get_device_properties(device).multi_processor_count


def _sums(x: Tensor, out: int, parts: int) -> Tensor:
    """Where programs write: y itself, or float32 [parts, rows, out]."""
    if parts == 1:
        return x.new_empty(x.shape[0], out)
    return x.new_empty(parts, x.shape[0], out, dtype=torch.float32)


def _added(sums: Tensor, x: Tensor) -> Tensor:
    """y [rows, out] in the dtype of `x`: the parts added in order."""
    if sums.ndim == 2:
        return sums
    y = x.new_empty(sums.shape[1:])
    _programs().add[(-(-y.numel() // SUM_SIZE),)](
        sums, y, y.numel(), PARTS=sums.shape[0], SIZE=SUM_SIZE, num_warps=2
    )
    return y


def _programs() -> Any:
    """The module of programs, imported when first used: it imports triton."""
    from . import triton_kernels

    return triton_kernels


def _of(dtype: torch.dtype) -> Any:
    """Triton's name of `dtype`."""
    import triton.language as tl

    return getattr(tl, str(dtype).removeprefix("torch."))


# Operators

_LIBRARY = torch.library.Library("salient", "FRAGMENT")
_WEIGHT = (
    "Tensor packed, Tensor scale, Tensor zero, ScalarType scale_dtype, int out, int group_size"
)
_LIBRARY.define(f"matmul_w4(Tensor x, {_WEIGHT}) -> Tensor")
_LIBRARY.define(f"dequantize_w4({_WEIGHT}, int width, ScalarType dtype) -> Tensor")


@torch.library.impl(_LIBRARY, "matmul_w4", "CompositeExplicitAutograd")
def _matmul(x: Tensor, *operands: Any) -> Tensor:
    return matmul(x, PackedOperands(*operands))


@torch.library.impl(_LIBRARY, "dequantize_w4", "CompositeExplicitAutograd")
def _dequantize(*arguments: Any) -> Tensor:
    *operands, width, dtype = arguments
    return dequantized(PackedOperands(*operands), width, dtype)


@torch.library.register_fake("salient::matmul_w4", lib=_LIBRARY)
def _like_matmul(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor, *facts: Any) -> Tensor:
    return x.new_empty(x.shape[0], facts[1])


@torch.library.register_fake("salient::dequantize_w4", lib=_LIBRARY)
def _like_dequantized(packed: Tensor, scale: Tensor, zero: Tensor, *facts: Any) -> Tensor:
    return packed.new_empty(facts[1], facts[3], dtype=facts[4])
