"""The files of an unfinished run: one a block, and one for everything that is no block."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from salient.core.errors import ModelError
from salient.core.scheme import Scheme
from salient.formats import load_format
from salient.formats.checkpoint import Checkpoint, open_piece
from salient.formats.writer import write_tensors
from salient.models.skeleton import Skeleton

from .block import BlockResult


@dataclass(frozen=True)
class Pieces:
    """Writes the pieces of a checkpoint in `format` into `folder` and reads them back.

    dtype: the 16-bit type of everything that is not codes
    """

    folder: Path
    source: Checkpoint
    skeleton: Skeleton
    format: str
    scheme: Scheme
    dtype: torch.dtype

    def path(self, index: int) -> Path:
        """The file of block `index`; -1 is everything that is no block."""
        name = "outer" if index < 0 else f"block-{index:05d}"
        return self.folder / f"{name}.safetensors"

    def write_block(self, index: int, result: BlockResult) -> None:
        """Write all tensors of a block by the names that the source's files have."""
        prefix, code = self.skeleton.blocks[index], load_format(self.format)
        tensors = {}
        for full in self.skeleton.parameter_names(index):
            local, stored = full.removeprefix(f"{prefix}."), self.skeleton.stored(full)
            weight = result.weights.get(local.removesuffix(".weight"))
            if weight is not None and local.endswith(".weight"):
                module = stored.removesuffix(".weight")
                packed = code.pack(weight, self.dtype)
                tensors |= {f"{module}.{suffix}": tensor for suffix, tensor in packed.items()}
            elif local in result.folded:
                tensors[stored] = result.folded[local]
            else:
                tensors[stored] = self._sixteen_bit(stored)
        write_tensors(self.path(index), tensors)

    def write_outer(self) -> None:
        """Write everything that is no block (embedding, final norm, head), at 16 bits."""
        if not self.path(-1).exists():
            names = self.skeleton.outer_names()
            write_tensors(self.path(-1), {name: self._sixteen_bit(name) for name in names})

    def read_block(self, index: int, block: nn.Module) -> None:
        """Give `block` the weights of its piece on disk."""
        config = {"quantization_config": load_format(self.format).config(self.scheme, [])}
        piece = open_piece(self.path(index), config)
        prefix = self.skeleton.blocks[index]
        for name, parameter in block.named_parameters():
            parameter.data.copy_(piece.parameter(self.skeleton.stored(f"{prefix}.{name}")))

    def _sixteen_bit(self, stored: str) -> Tensor:
        return in_dtype(stored, self.source.parameter(stored), self.dtype)


def in_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, integers as they are. Raises ModelError where float16 overflows."""
    if not tensor.is_floating_point():
        return tensor
    made = tensor.to(dtype)
    if not bool(torch.isfinite(made).all()) and bool(torch.isfinite(tensor).all()):
        raise ModelError(
            f"{name!r} reaches {float(tensor.abs().max()):.3g}, more than {dtype} holds. Write the "
            "checkpoint with --dtype bfloat16."
        )
    return made
