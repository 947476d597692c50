"""Which matrix of a quantized checkpoint is stored in which format."""

from dataclasses import dataclass

from salient.shapes.model_shape import LinearShape

from .matrix_formats import MatrixFormat

SIXTEEN = 16.0


@dataclass(frozen=True)
class QuantizationRules:
    """The formats of a checkpoint.

    default: of the matrices of blocks that no other rule names
    """

    default: MatrixFormat

    def format_of(self, index: int, linear: LinearShape) -> MatrixFormat | None:
        """The format of `linear` in block `index`, None where it stays in 16-bit."""
        return None if linear.unquantized else self.default

    def bits(self, index: int, linear: LinearShape) -> float:
        """Bits a weight."""
        form = self.format_of(index, linear)
        return form.bits(linear) if form else SIXTEEN

    def ends(self) -> tuple[float, float]:
        """Bits of the embedding and of the head."""
        return SIXTEEN, SIXTEEN
