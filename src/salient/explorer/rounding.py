"""Rounding with other settings than the checkpoint's, by core.quant."""

from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.quant import Grid, codes_of, grid_of, round_trip
from salient.core.scheme import Scheme

SAMPLE_VALUES = 2**22  # values of a weight that stand for all of it
FIT_ROUNDS = 3


@dataclass(frozen=True)
class Rounding:
    """Scheme, share of each group's range that clipping leaves, and dtype of the scales."""

    scheme: Scheme
    clip: float
    dtype: torch.dtype

    def of(self, weight: Tensor, scale: Tensor) -> Tensor:
        """`weight` [rows, in] times `scale` [in], rounded and dequantized, divided by the scale."""
        grouped, grid = self._grid(weight * scale)
        return round_trip(grouped, grid, self.scheme).flatten(1) / scale

    def codes(self, weight: Tensor, scale: Tensor) -> tuple[Tensor, Grid]:
        """The codes of `weight` times `scale`, uint8 [rows, in], and their grid."""
        grouped, grid = self._grid(weight * scale)
        return codes_of(grouped, grid, self.scheme).flatten(1).byte(), grid

    def _grid(self, scaled: Tensor) -> tuple[Tensor, Grid]:
        """`scaled` float32 [rows, in] by groups, and its grid."""
        grouped = scaled.unflatten(1, (-1, self.scheme.group_size))
        low, high = grouped.amin(-1) * self.clip, grouped.amax(-1) * self.clip
        return grouped, grid_of(low, high, self.scheme, self.dtype)


def output_power(weight: Tensor, tokens: Tensor) -> float:
    """sum_t |W x_t|^2 = tr(W G W^T) for W [rows, in] and the tokens [tokens, in]."""
    return float((tokens @ weight.t()).square_().sum())


@dataclass(frozen=True)
class FoldedScales:
    """The scales that were folded into a weight before rounding.

    columns: float32 [in]   rows: whether rows have scales, too
    """

    columns: Tensor
    rows: bool

    def unfold(self, original: Tensor, written: Tensor) -> Tensor:
        """`written` [rows, in] without the scales; `original`: the same rows of the source."""
        bare = written / self.columns
        return bare / self.row_factors(original, bare)[:, None]

    def row_factors(self, original: Tensor, bare: Tensor) -> Tensor:
        """The scales of rows [rows, in]. bare: as written, without the scales of the columns"""
        if not self.rows:
            return torch.ones(len(original))
        return _ratio((bare * original).sum(1), original.square().sum(1))


def fit_folded(original: Tensor, written: Tensor, *, columns: bool, rows: bool) -> FoldedScales:
    """The scales of columns and rows that were folded into a weight before rounding.

    A least-squares fit, W'_ij ~ r_i c_j W_ij, of evenly spread rows, both float32 [rows, in]: a
    checkpoint does not store the scales. Hundreds of codes share each scale, so that rounding
    changes it by a few parts in a thousand.
    """
    folded = FoldedScales(torch.ones(original.shape[1]), rows)
    for _ in range(FIT_ROUNDS if columns else 0):
        # Without the rows' factors, which scaled the rounding errors, too.
        even = written / folded.row_factors(original, written / folded.columns)[:, None]
        scales = _ratio((even * original).sum(0), original.square().sum(0))
        folded = FoldedScales(scales, rows)
    return folded


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """top / bottom; 1 where that is not a scale."""
    ratio = top / bottom
    return torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
