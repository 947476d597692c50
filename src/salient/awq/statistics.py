"""Sufficient statistics of a block's inputs, all that the search needs of the tokens.

For an input x [in] shared by some linears, the output error of a rounding error E [out, in] is

    sum_t |E x_t|^2 = tr(E G E^T)        G = sum_t x_t x_t^T

so the Gram matrix G and the mean magnitude of each channel replace the tokens. Both are sums:
statistics of parts of the calibration add up to those of the whole.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from salient.models.block_call import BlockCall, InputRecorder, run_block

PANELS = 6  # G is symmetric: adding only from each panel's diagonal on saves 5 parts in 12


@dataclass(frozen=True)
class LinearStats:
    """What the rounding of one linear uses of the calibration tokens.

    gram: float32 [in, in], the sum of w x x^T (w: by the end loss, fisher.py; 1 without gradients)
    output_grams: the sum of d d^T, d the end loss's gradient by the outputs: float32 [rows, rows]
        for each band of fisher.OUTPUT_BAND outputs; () without gradients
    """

    gram: Tensor
    output_grams: tuple[Tensor, ...] = ()


class GramSum:
    """The sum of w x x^T over tokens, for x of `width` channels."""

    def __init__(self, width: int, device: torch.device | str = "cpu"):
        self._upper = torch.zeros(width, width, device=device)

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Add the tokens `x` float32 [tokens, width], weighted by `weights` [tokens, 1]."""
        left = x if weights is None else x * weights
        for start, stop in self._panels():
            self._upper[start:stop, start:].addmm_(left[:, start:stop].t(), x[:, start:])

    def merge(self, other: "GramSum") -> None:
        """Add the sum of other tokens."""
        self._upper += other._upper

    @property
    def diagonal(self) -> Tensor:
        """Float32 [width]."""
        return self._upper.diagonal()

    @property
    def matrix(self) -> Tensor:
        """Float32 [width, width]; not a copy."""
        for start, stop in self._panels():
            self._upper[stop:, start:stop] = self._upper[start:stop, stop:].t()
        return self._upper

    def _panels(self) -> list[tuple[int, int]]:
        width = len(self._upper)
        step = -(-width // PANELS)
        return [(start, min(start + step, width)) for start in range(0, width, step)]


class ActStats:
    """Statistics of one shared input of `width` channels, as sums over tokens.

    abs_sum: float32 [in], sum of |x|
    peak: float32, the largest |x|
    tokens: how many
    gram: False leaves the Gram matrix out
    """

    def __init__(self, width: int, device: torch.device | str = "cpu", *, gram: bool = True):
        self.abs_sum = torch.zeros(width, device=device)
        self.peak = torch.zeros((), device=device)
        self.tokens = 0
        self._gram = GramSum(width if gram else 0, device)

    def add(self, x: Tensor) -> None:
        """Add the tokens `x` [tokens, in]."""
        x = x.float()
        self.add_magnitudes(x)
        self._gram.add(x)

    def add_magnitudes(self, x: Tensor) -> None:
        """Add all but the Gram matrix of the tokens `x` float32 [tokens, in]."""
        magnitude = x.abs()
        self.abs_sum += magnitude.sum(0)
        if len(x):
            self.peak = torch.maximum(self.peak, magnitude.amax())
        self.tokens += len(x)

    def merge(self, other: "ActStats") -> None:
        """Add the statistics of other tokens."""
        self.abs_sum += other.abs_sum
        self.peak = torch.maximum(self.peak, other.peak)
        self._gram.merge(other._gram)
        self.tokens += other.tokens

    @property
    def mean_abs(self) -> Tensor:
        """Mean magnitude of each channel: float32 [in]."""
        return self.abs_sum / max(self.tokens, 1)

    @property
    def finite(self) -> bool:
        """Whether no token brought a NaN, an infinity, or a value whose square overflows."""
        return bool(torch.isfinite(self._gram.diagonal.sum()))

    @property
    def gram(self) -> Tensor:
        """The sum of x x^T: float32 [in, in]; not a copy."""
        return self._gram.matrix

    def alike(self, readers: tuple[str, ...]) -> list[tuple[str, ...]]:
        """`readers` in groups with the same statistics."""
        return [readers]

    def of(self, _reader: str) -> LinearStats:
        """What the rounding of a reader uses: the same for all."""
        return LinearStats(self.gram)


class InputStats(Protocol):
    """Statistics of one shared input, with or without gradients."""

    @property
    def tokens(self) -> int: ...
    @property
    def peak(self) -> Tensor: ...
    @property
    def mean_abs(self) -> Tensor: ...
    @property
    def gram(self) -> Tensor: ...
    @property
    def finite(self) -> bool: ...
    def alike(self, readers: tuple[str, ...]) -> list[tuple[str, ...]]: ...
    def of(self, reader: str, /) -> LinearStats: ...


class Gatherer(Protocol):
    """How the statistics of a block's inputs are gathered: PlainGatherer, GradientGatherer."""

    def bytes_of(self, names: tuple[str, ...]) -> int:
        """Memory for the statistics of an input with the readers `names`."""
        ...

    def create(self, names: tuple[str, ...]) -> InputStats:
        """Empty statistics of an input with the readers `names`."""
        ...

    def run(
        self, hidden: Tensor, call: BlockCall, gradient: Tensor | None, stats: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Run tokens and add to `stats` (by the first readers).

        Returns the block's output, and what the pass hands on: that, or the gradient.
        """
        ...


@dataclass(frozen=True)
class PlainGatherer:
    """Gathers Gram matrices of the inputs of `block`."""

    block: nn.Module

    def bytes_of(self, names: tuple[str, ...]) -> int:
        """Memory for the statistics of an input with the readers `names`."""
        return width_of(self.block, names[0]) ** 2 * 4

    def create(self, names: tuple[str, ...]) -> ActStats:
        """Empty statistics of an input with the readers `names`."""
        return ActStats(width_of(self.block, names[0]), next(self.block.parameters()).device)

    def run(
        self, hidden: Tensor, call: BlockCall, gradient: Tensor | None, stats: dict[str, ActStats]
    ) -> tuple[Tensor, Tensor]:
        """Run tokens. A `gradient` is handed on unchanged: that of the block's residual path."""
        with InputRecorder(self.block, list(stats)) as recorder:
            out = run_block(self.block, hidden, call)
        for name, x in recorder.inputs.items():
            stats[name].add(x)
        return out, out if gradient is None else gradient


def width_of(block: nn.Module, name: str) -> int:
    """The input channels of a linear of `block`."""
    return block.get_parameter(f"{name}.weight").shape[1]
