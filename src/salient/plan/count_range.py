"""What a rough count of a model leaves open: whether it fits, and how fast it is."""

from dataclasses import dataclass

from salient.shapes.model_shape import ModelShape

from .memory import MemoryBudget
from .speed import SpeedRange

UNBOUNDED = (0.5, 2.0)  # times the count, where a rough shape has no bounds


@dataclass(frozen=True)
class CountRange:
    """Bounds of the parameters and of the cache, times their count: 1 and 1 where it is exact."""

    low: float = 1.0
    high: float = 1.0
    cache_low: float = 1.0
    cache_high: float = 1.0

    @staticmethod
    def of(shape: ModelShape) -> "CountRange":
        if shape.exact:
            return CountRange()
        low, high = shape.spread if shape.low and shape.high else UNBOUNDED
        return CountRange(low, high, shape.cache_low, shape.cache_high)

    @property
    def exact(self) -> bool:
        return self == CountRange()

    def taken(self, memory: MemoryBudget, *, measured: bool = False) -> tuple[float, float]:
        """Bytes that it takes at least and at most.

        measured: whether the weights were not counted but read from the files
        """
        weights = sum(item.bytes for item in memory.items if item.what == "weights")
        cache = sum(item.bytes for item in memory.items if item.what == "KV cache")
        rest = memory.taken - weights - cache
        low, high = (1.0, 1.0) if measured else (self.low, self.high)
        return (
            rest + weights * low + cache * self.cache_low,
            rest + weights * high + cache * self.cache_high,
        )

    def fits(self, memory: MemoryBudget) -> str:
        """ "yes" or "no" where all of the range does or does not fit, else "?"."""
        least, most = self.taken(memory)
        return "yes" if most <= memory.available else "no" if least > memory.available else "?"

    def speed(self, span: SpeedRange) -> SpeedRange:
        """A rate over the whole range."""
        return SpeedRange(span.low / self.high, span.middle, span.high / self.low)
