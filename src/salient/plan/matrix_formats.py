"""How one matrix is stored: the bits of its codes, of its scales, and what kernels see."""

from dataclasses import dataclass

from salient.shapes.model_shape import LinearShape

from .vllm.types import WeightPacking


@dataclass(frozen=True)
class MatrixFormat:
    """A format of matrices.

    packing: what kernels see; title: in tables
    code: bits a weight
    scale: bits of scales and zeros that a group has; group: its inputs, -1 for all; rows: its
        outputs, -1 for all
    order: bits for each input, of the whole matrix (GPTQ's g_idx)
    """

    packing: WeightPacking
    title: str
    code: float
    scale: float = 0.0
    group: int = -1
    rows: int = 1
    order: float = 0.0

    @property
    def method(self) -> str:
        return self.packing.method

    def bits(self, linear: LinearShape) -> float:
        """Bits a weight of `linear`, with its scales."""
        groups = -(-linear.width // self.group) if self.group > 0 else 1
        groups *= -(-linear.out // self.rows) if self.rows > 0 else 1
        return (
            self.code + self.scale * groups / (linear.width * linear.out) + self.order / linear.out
        )


def codes(
    method: str, bits: int, group: int, *, zeros: bool = True, order: bool = False
) -> MatrixFormat:
    """Integers with a 16-bit scale (and a zero of as many bits) for each group."""
    size = f"-g{group}" if group > 0 else ""
    name = {"awq": "AWQ", "gptq": "GPTQ"}.get(method, method)
    stores_zeros = zeros or method in ("awq", "gptq")  # their files have zeros in any case
    return MatrixFormat(
        WeightPacking(method, group, zeros, bits, order),
        f"{name} w{bits}{size}",
        bits,
        16 + bits * stores_zeros,
        group,
        order=32 if method == "gptq" or order else 0,
    )


def scaled(method: str, title: str, code: float, scale: float, group: int = -1) -> MatrixFormat:
    """Numbers with a scale for each group of inputs of an output."""
    return MatrixFormat(WeightPacking(method, group), title, code, scale, group)


def block_fp8(outputs: int, inputs: int, scale: int = 32) -> MatrixFormat:
    """FP8 with a scale for each block of outputs x inputs."""
    title = f"FP8 in blocks of {outputs} x {inputs}"
    return MatrixFormat(WeightPacking("fp8_block", inputs), title, 8, scale, inputs, outputs)


NVFP4 = scaled("nvfp4", "NVFP4", 4, 8, 16)  # scales in FP8, one float32 a matrix
MXFP4 = scaled("mxfp4", "MXFP4", 4, 8, 32)  # scales are powers of 2
MXFP8 = scaled("mxfp8", "MXFP8", 8, 8, 32)
FP8_TENSOR = MatrixFormat(WeightPacking("fp8"), "FP8 per tensor", 8, 32, rows=-1)
FP8_CHANNEL = MatrixFormat(WeightPacking("fp8"), "FP8 per channel", 8, 32)
INT8_CHANNEL = MatrixFormat(WeightPacking("int8"), "INT8 per channel", 8, 32)
