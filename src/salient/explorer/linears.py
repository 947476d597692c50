"""The linears of the checkpoint: 16-bit weights and stored codes."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from salient.core.errors import RequestError
from salient.core.quant import QuantizedWeight
from salient.formats.checkpoint import open_checkpoint
from salient.models.skeleton import Skeleton

from .background import RecentResults

CACHED_WEIGHTS = 3


@dataclass(frozen=True)
class BlockLinear:
    """A linear of a block. weight: [out, in] as stored   written: its codes, None if unquantized"""

    block: int
    name: str
    weight: Tensor
    written: QuantizedWeight | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def rows(self, picked: Tensor) -> Tensor:
        return self.weight[picked].float()


class LinearReader:
    """Reads single linears from `source` (16-bit) or, without it, dequantized."""

    def __init__(self, checkpoint: Skeleton, source: Skeleton | None):
        self.checkpoint, self.source = checkpoint, source
        self._recent = RecentResults(CACHED_WEIGHTS)

    @property
    def blocks(self) -> list[str]:
        return self.checkpoint.blocks

    def shapes(self, block: int) -> dict[str, tuple[int, int]]:
        """Each linear of a block: (out, in). Raises RequestError for an unknown block."""
        if not 0 <= block < len(self.blocks):
            raise RequestError(
                f"There is no block {block}: the model has {len(self.blocks)}, from 0."
            )
        linears = self.checkpoint.linears(block)
        return {n: (m.out_features, m.in_features) for n, m in linears.items()}

    def linear(self, block: int, name: str) -> BlockLinear:
        """The linear `name` of a block. Raises RequestError for an unknown linear."""
        shapes = self.shapes(block)
        if name not in shapes:
            known = ", ".join(list(shapes)[:8])
            raise RequestError(f"Block {block} has no linear {name[:100]!r}. It has {known}.")
        return self._recent.get((block, name), lambda: self._read(block, name))

    def is_coded(self, block: int, name: str) -> bool:
        full, files = f"{self.blocks[block]}.{name}", self.checkpoint.files
        whole = files.stored(f"{full}.weight").part is None
        return whole and files.source.is_quantized(files.module(full))

    def _read(self, block: int, name: str) -> BlockLinear:
        full, files = f"{self.blocks[block]}.{name}", self.checkpoint.files
        coded = self.is_coded(block, name)
        written = files.source.quantized(files.module(full)) if coded else None
        if self.source is None and written is not None:
            return BlockLinear(block, name, written.dequantize(), written)
        weight = (self.source or self.checkpoint).files.read(f"{full}.weight")
        return BlockLinear(block, name, weight, written)


def block_reader(folder: Path) -> Skeleton:
    """The model in `folder`, to read single parameters; its files are opened for this thread."""
    return Skeleton(open_checkpoint(folder), torch.float32, torch.device("cpu"))
