"""The key/value cache: one slot for each running sequence, positions in order."""

import mmap
import sys
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """The tokens that a step computes, one row each.

    slots, positions: int64 [rows], where a row's keys and values go
    length: positions that any row may read, 0 to length - 1
    slot: the one slot of all rows, in order of position (prefill); None: a slot a row (decode)
    prefills: the prefills that follow each other in its rows, where there are several
    """

    slots: Tensor
    positions: Tensor
    length: int
    slot: int | None = None
    prefills: tuple["Batch", ...] = ()

    @staticmethod
    def prefill(slot: int, start: int, count: int, device: torch.device) -> "Batch":
        """`count` tokens of one sequence from position `start` on."""
        positions = torch.arange(start, start + count, device=device)
        return Batch(torch.full_like(positions, slot), positions, start + count, slot)

    @staticmethod
    def together(prefills: list["Batch"]) -> "Batch":
        """Prefills of several slots, one after the other."""
        if len(prefills) == 1:
            return prefills[0]
        slots, positions = (
            torch.cat([getattr(p, name) for p in prefills]) for name in ("slots", "positions")
        )
        return Batch(slots, positions, max(p.length for p in prefills), prefills=tuple(prefills))

    @staticmethod
    def decode(slots: list[int], positions: list[int], device: torch.device) -> "Batch":
        """One token each of several sequences."""
        where = (torch.tensor(slots, device=device), torch.tensor(positions, device=device))
        return Batch(*where, max(positions) + 1)


class KeyValueCache:
    """Keys and values of every block.

    keys, values: per block [slots, kv_heads, capacity, head_dim]
    """

    def __init__(
        self,
        shapes: list[tuple[int, int]],
        slots: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        """`shapes` has (kv_heads, head_dim) of every block. Memory is touched as it is written."""
        self.slots, self.capacity, self.dtype = slots, capacity, dtype

        sizes = [(slots, heads, capacity, dim) for heads, dim in shapes]
        self.keys = [_zeros(size, dtype, device) for size in sizes]
        self.values = [_zeros(size, dtype, device) for size in sizes]

    @property
    def bytes(self) -> int:
        """Bytes when every slot is full."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy the first `count` positions of slot `source` to slot `target`."""
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :count] = tensor[source, :, :count]


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; in main memory the system's, which takes a page when it is written."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    count = prod(size) * dtype.itemsize
    if sys.platform == "win32":
        memory = mmap.mmap(-1, count)
    else:  # mmap's default is memory that forks share
        memory = mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page of 2 MiB would take a slot's whole room
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(size)
