"""How one matrix is stored: the bits of its codes, of its scales, and what engines call it."""

from dataclasses import dataclass

from salient.shapes.model_shape import LinearShape

from .vllm.types import WeightPacking


@dataclass(frozen=True)
class MatrixFormat:
    """A format of matrices.

    packing: what kernels see; title: in tables
    code: bits a weight
    scale: bits of scales and zeros that a group has; rows: outputs of a group
    whole: bits for each input of a matrix, whatever its outputs (GPTQ's g_idx)
    """

    packing: WeightPacking
    title: str
    code: float
    scale: float = 0.0
    rows: int = 1
    whole: float = 0.0

    @property
    def method(self) -> str:
        return self.packing.method

    @property
    def group(self) -> int:
        """Inputs of a group: -1 for all of a row."""
        return self.packing.group

    def bits(self, linear: LinearShape) -> float:
        """Bits a weight of `linear`, with its scales."""
        groups = -(-linear.width // self.group) if self.group > 0 else 1
        blocks = groups * -(-linear.out // self.rows)
        shared = self.scale * blocks / (linear.width * linear.out)
        return self.code + shared + self.whole / linear.out
