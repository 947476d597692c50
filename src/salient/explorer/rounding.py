"""Weights rounded in other ways than the checkpoint's, by the one rounding of core.quant."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from salient.awq.search import FEWEST_ROWS, MORE
from salient.core.quant import Grid, codes_of, grid_of, round_trip
from salient.core.scheme import Scheme

SOME_VALUES = 2**22  # values of a weight that tell of all: its salience, what was folded into it
FIT_ROUNDS = 3


@dataclass(frozen=True)
class Rounding:
    """How to round: the scheme, the share of each group's range that is kept, the scales' type."""

    scheme: Scheme
    clip: float
    dtype: torch.dtype

    def grid(self, scaled: Tensor) -> Grid:
        """The grid of `scaled` float32 [rows, in]."""
        grouped = scaled.unflatten(1, (-1, self.scheme.group_size))
        low, high = grouped.amin(-1) * self.clip, grouped.amax(-1) * self.clip
        return grid_of(low, high, self.scheme, self.dtype)

    def of(self, weight: Tensor, scale: Tensor) -> Tensor:
        """What the codes of `weight` [rows, in] times `scale` [in] stand for, without the scale."""
        scaled = weight * scale
        grouped = scaled.unflatten(1, (-1, self.scheme.group_size))
        return round_trip(grouped, self.grid(scaled), self.scheme).flatten(1) / scale

    def codes(self, weight: Tensor, scale: Tensor) -> tuple[Tensor, Grid]:
        """The codes of the same, uint8 [rows, in], and their grid."""
        scaled = weight * scale
        grid = self.grid(scaled)
        grouped = scaled.unflatten(1, (-1, self.scheme.group_size))
        return codes_of(grouped, grid, self.scheme).flatten(1).byte(), grid


def spread_rows(out: int, width: int, values: int = MORE) -> Tensor:
    """So many evenly spread rows of [out, width] as have about `values` values; int64."""
    count = min(max(FEWEST_ROWS, values // width), out)
    return torch.linspace(0, out - 1, count).round().long()


def output_power(weight: Tensor, tokens: Tensor) -> float:
    """sum_t |W x_t|^2 = tr(W G W^T) for W [rows, in] and the tokens [tokens, in]."""
    return float((tokens @ weight.t()).square_().sum())


@dataclass(frozen=True)
class Folded:
    """What was folded into a weight before it was rounded. columns: float32 [in], multiplied in

    rows_of: (original rows, written rows without their columns) -> what those were multiplied by
    """

    columns: Tensor
    rows_of: Callable[[Tensor, Tensor], Tensor]

    def undone(self, original: Tensor, written: Tensor) -> Tensor:
        """`written` [rows, in] in the place of the `original` rows."""
        bare = written / self.columns
        return bare / self.rows_of(original, bare)[:, None]


def fit_folded(original: Tensor, written: Tensor, *, columns: bool, rows: bool) -> Folded:
    """The scales by columns, and by rows, that were folded into a weight before it was rounded.

    Found by least squares from what is written: W'_ij ~ r_i c_j W_ij, both float32 [rows, in], some
    evenly spread rows. A checkpoint does not keep them. Hundreds of codes stand for each scale, so
    that what their rounding does to it is a few parts in a thousand.
    """
    found = torch.ones(original.shape[1])
    rows_of = _row_factors if rows else _ones
    for _ in range(FIT_ROUNDS if columns else 0):
        # Without the rows' factors, which the errors of rounding grew by, too.
        even = written / rows_of(original, written / found)[:, None]
        found = _ratio((even * original).sum(0), original.square().sum(0))
    return Folded(found, rows_of)


def _row_factors(original: Tensor, bare: Tensor) -> Tensor:
    return _ratio((bare * original).sum(1), original.square().sum(1))


def _ones(original: Tensor, _: Tensor) -> Tensor:
    return torch.ones(len(original))


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """top / bottom; 1 where that is no scale."""
    found = top / bottom
    return torch.where(found.isfinite() & (found > 0), found, 1.0)
