"""The files of an unfinished run: one for each block, and one for all other tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salient.core.errors import ModelError
from salient.core.model_files import StoredTensor
from salient.core.quant import check_finite
from salient.core.scheme import LayerSchemes, stacked_targets
from salient.formats import load_format
from salient.formats.checkpoint import Checkpoint, open_piece
from salient.formats.writer import write_tensors
from salient.models.skeleton import Skeleton
from salient.models.stored_types import main_type, stays_float32
from salient.models.weight_map import ParameterFiles

from .results import BlockResult, OutputTarget

MTP_BYTES = 2**30
LEARNED, NOTES = "-learned", "-notes"  # kinds of a block's files


@dataclass(frozen=True)
class PartialCheckpoint:
    """Writes the parts of a checkpoint in `format` into `folder` and reads them back.

    target: the scheme of the codes, the dtypes of everything else
    """

    folder: Path
    source: Checkpoint
    skeleton: Skeleton
    format: str
    target: OutputTarget

    def path(self, index: int, kind: str = "") -> Path:
        """The file of block `index`; -1: the tensors outside the blocks.

        kind: LEARNED for the block after reconstruction, NOTES for what that needs
        """
        name = "outer" if index < 0 else f"block-{index:05d}"
        return self.folder / f"{name}{kind}.safetensors"

    def final_path(self, index: int) -> Path:
        """The file of block `index` as it is published."""
        learned = self.path(index, LEARNED)
        return learned if learned.exists() else self.path(index)

    def write_block(self, path: Path, index: int, result: BlockResult) -> None:
        """Write all tensors of a block to `path`, by the names that the source's files have.

        Quantized linears become separate tensors, even if the source stacks them; unquantized ones
        are stored as in the source.
        """
        prefix, code = self.skeleton.blocks[index], load_format(self.format)
        names = {n: n.removeprefix(f"{prefix}.") for n in self.skeleton.parameter_names(index)}
        apart = {
            self.skeleton.files.stored(full).name
            for full, local in names.items()
            if local.removesuffix(".weight").removesuffix(".bias") in result.weights
        }
        tensors = {}
        with self.source.reading():
            for full, local in names.items():
                stored = self.skeleton.files.stored(full)
                weight = result.weights.get(local.removesuffix(".weight"))
                if weight is not None and local.endswith(".weight"):
                    module = stored.written.removesuffix(".weight")
                    packed = code.pack(weight, self.target.dtype)
                    tensors |= {f"{module}.{suffix}": tensor for suffix, tensor in packed.items()}
                    continue
                own = result.folded.get(local)
                own = self._sixteen_bit(full) if own is None else own
                if stored.part is None or stored.name in apart:
                    tensors[stored.written] = own
                    continue
                if stored.name not in tensors:
                    tensors[stored.name] = self._stored_whole(full)
                stored.part.of(tensors[stored.name]).copy_(own)
        write_tensors(path, tensors)

    def source_tensors(self, index: int) -> list[StoredTensor]:
        """The source's tensors that block `index` is made from; -1: those outside the blocks."""
        skeleton = self.skeleton
        parameters = skeleton.outer_names() if index < 0 else skeleton.parameter_names(index)
        names = dict.fromkeys(skeleton.files.stored(name).name for name in parameters)
        parts = self.source.parts
        stored = [own for name in names for own in parts.get(name, {name: name}).values()]
        return [self.source.headers[name] for name in stored if name in self.source.headers]

    def write_outer(self) -> None:
        """Write the tensors outside the blocks (embedding, final norm, head) in 16-bit."""
        names = self.skeleton.outer_names()
        with self.source.reading():
            tensors = {
                self.skeleton.files.stored(name).written: self._sixteen_bit(name) for name in names
            }
        write_tensors(self.path(-1), tensors)

    def mtp_portions(self, names: Sequence[str]) -> dict[Path, list[str]]:
        """File -> those of the source's tensors `names` that are written to it, about MTP_BYTES."""
        portions, room = list[list[str]](), 0
        for name in names:
            size = self.source.headers[name].bytes
            if size > room or not portions:
                portions.append([])
                room = MTP_BYTES
            portions[-1].append(name)
            room -= size
        return {self.folder / f"mtp-{i:05d}.safetensors": p for i, p in enumerate(portions)}

    def write_mtp(self, path: Path, names: Sequence[str]) -> None:
        """Write the source's tensors `names` in 16 bits to `path`."""
        headers, main = self.source.headers, main_type(self.skeleton.files)
        tensors = {}
        with self.source.reading():
            for name in names:
                tensor = self.source.tensor(name)
                check_finite(name, tensor)
                wide = stays_float32(name, headers[name], main)
                dtype = torch.float32 if wide else self.target.dtype
                tensors[name] = in_dtype(name, tensor, dtype)
        write_tensors(path, tensors)

    def quantization_config(
        self, skipped: Sequence[str], parts: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The entry of config.json for all blocks, by the names that the source's files have.

        skipped: unquantized linears   parts: modules without a quantized one
        """
        module = self.skeleton.files.module
        own = {module(name): scheme for name, scheme in self.target.own.items()}
        schemes = LayerSchemes(self.target.scheme, stacked_targets(own))
        return load_format(self.format).config(schemes, sorted(map(module, skipped)), parts)

    def read_block(self, path: Path, index: int, block: nn.Module) -> None:
        """Load the weights of the block's file `path` into `block`."""
        prefix = self.skeleton.blocks[index]
        piece = self._piece(path)
        files = ParameterFiles(self.skeleton.architecture, piece)
        with piece.reading():
            for name, parameter in block.named_parameters():
                parameter.data.copy_(files.read(f"{prefix}.{name}"))

    def read_codes(self, path: Path, index: int) -> BlockResult:
        """The codes and all other parameters in the block's file `path`."""
        prefix, piece = self.skeleton.blocks[index], self._piece(path)
        files = ParameterFiles(self.skeleton.architecture, piece)
        weights, folded = {}, {}
        with piece.reading():
            for full in self.skeleton.parameter_names(index):
                local = full.removeprefix(f"{prefix}.")
                module = self.skeleton.files.stored(full).written.removesuffix(".weight")
                if local.endswith(".weight") and piece.is_quantized(module):
                    weights[local.removesuffix(".weight")] = piece.quantized(module)
                else:
                    folded[local] = files.read(full)
        return BlockResult(weights, {}, folded)

    def _piece(self, path: Path) -> Checkpoint:
        return open_piece(path, {"quantization_config": self.quantization_config([])})

    def _sixteen_bit(self, name: str) -> Tensor:
        return in_dtype(name, self.skeleton.files.read(name), self.target.dtype_of(name))

    def _stored_whole(self, name: str) -> Tensor:
        """The whole stored tensor that the parameter `name` is, or is a part of."""
        stored = self.skeleton.files.stored(name).name
        return in_dtype(stored, self.source.parameter(stored), self.target.dtype_of(name))


def in_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, integers as they are. Raises ModelError where float16 overflows."""
    if not tensor.is_floating_point():
        return tensor
    converted = tensor.to(dtype)
    if not bool(torch.isfinite(converted).all()) and bool(torch.isfinite(tensor).all()):
        raise ModelError(
            f"{name!r} reaches {float(tensor.abs().max()):.3g}, more than the largest {dtype}. "
            "Write the checkpoint with --dtype bfloat16."
        )
    return converted
