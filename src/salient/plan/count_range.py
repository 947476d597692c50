"""What a rough count of a model leaves open: whether it fits, and how fast it is."""

from dataclasses import dataclass

from salient.shapes.model_shape import ModelShape

from .memory import MemoryBudget
from .speed import SpeedRange

UNBOUNDED = (0.5, 2.0)  # times the count, where a rough shape has no bounds


@dataclass(frozen=True)
class CountRange:
    """Bounds of the parameters, times their count: 1 and 1 where it is exact."""

    low: float = 1.0
    high: float = 1.0

    @staticmethod
    def of(shape: ModelShape) -> "CountRange":
        if shape.exact:
            return CountRange()
        if not (shape.low and shape.high):
            return CountRange(*UNBOUNDED)
        return CountRange(shape.low / shape.parameters, shape.high / shape.parameters)

    @property
    def exact(self) -> bool:
        return self.low == self.high

    def taken(self, memory: MemoryBudget) -> tuple[float, float]:
        """Bytes that it takes at least and at most; the weights alone are varied."""
        weights = sum(item.bytes for item in memory.items if item.what == "weights")
        rest = memory.taken - weights
        return rest + weights * self.low, rest + weights * self.high

    def fits(self, memory: MemoryBudget) -> str:
        """ "yes" or "no" where all of the range does or does not fit, else "?"."""
        least, most = self.taken(memory)
        return "yes" if most <= memory.available else "no" if least > memory.available else "?"

    def speed(self, span: SpeedRange) -> SpeedRange:
        """A rate over the whole range."""
        return SpeedRange(span.low / self.high, span.middle, span.high / self.low)
