"""The quadratic model of the end loss that rounding is judged by, on calibration tokens.

A rounding error E [out, in] of one linear changes the loss to second order by

    tr(HO E H E^T)      H = sum_t w_t x_t x_t^T,  HO = sum_t d_t d_t^T

(x inputs, d output gradients: a Kronecker factorization of the Fisher information, Martens and
Grosse 2015, "K-FAC", section 3). Without gradients HO is 1 and rows are independent. Large outputs
have HO in bands of rows, which are independent of each other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from .statistics import LinearStats


@dataclass(frozen=True)
class EndLoss:
    """The damped factors of one linear.

    inputs: float32 [in, in], H of the scaled input
    outputs: float32 [rows, rows] of each band of rows, in order; () for HO = 1
    """

    inputs: Tensor
    outputs: tuple[Tensor, ...] = ()

    def bands(self, rows: int) -> Iterator[tuple[slice, Tensor | None]]:
        """The rows of each band of a weight of `rows`, and their HO (None for 1)."""
        start = 0
        for gram in self.outputs:
            yield slice(start, start + len(gram)), gram
            start += len(gram)
        if not self.outputs:
            yield slice(0, rows), None

    def gradient(self, error: Tensor) -> Tensor:
        """HO E H, half the derivative, for `error` [out, in]."""
        turned = error @ self.inputs
        for rows, gram in self.bands(len(error)):
            if gram is not None:
                turned[rows] = gram @ turned[rows]
        return turned

    def of(self, error: Tensor) -> float:
        """tr(HO E H E^T) for `error` [out, in]."""
        return float((self.gradient(error) * error).sum())


def damped(gram: Tensor, damping: float) -> Tensor:
    """`gram` in mean diagonals, with `damping` added to its diagonal."""
    result = gram / gram.diagonal().mean().clamp(min=1e-30)
    result.diagonal().add_(damping)
    return result


def end_loss(stats: LinearStats, scale: Tensor, damping: tuple[float, float]) -> EndLoss:
    """The loss of a weight whose columns were multiplied by `scale` [in].

    `damping` is that of H (of the scaled input) and of each band of HO, in mean diagonals.
    """
    inputs = damped(stats.gram / (scale[:, None] * scale), damping[0])
    return EndLoss(inputs, tuple(damped(band, damping[1]) for band in stats.output_grams))
