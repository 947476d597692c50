"""Error feedback: let later columns of a weight make up for the rounding errors of earlier ones.

Columns are rounded in order of input strength; the error of each column is distributed over the
columns not yet rounded, along the rows of the Cholesky factor of the inverse Gram matrix (Frantar
et al. 2023, "GPTQ", section 3.3 and algorithm 1; the grids are fixed beforehand). The result
is the weight with each column as it was when it was rounded: rounding the result to the nearest
code gives the same codes, so that core.quant remains the only place that rounds.

The Gram matrix of a few thousand tokens is trusted only in part: DAMPING adds a multiple of its
mean diagonal. GPTQ's usual 0.01 fits the calibration tokens too closely (benchmarks/RESULTS.md).
"""

import torch
from torch import Tensor

from salient.core.quant import Grid, round_trip
from salient.core.scheme import Scheme

from .end_loss import damped

DAMPING = 0.5  # times the mean diagonal of the Gram matrix
BAND = 2048  # columns that feed back on each other: bounds memory and time for wide inputs
ROWS = 4096  # of the weight that are walked at once: bounds memory for tall weights
STEP = 64  # columns whose feedback on the rest of the band is one matrix product


def with_feedback(
    weight: Tensor, grid: Grid, gram: Tensor, scale: Tensor, scheme: Scheme
) -> Tensor:
    """`weight` [out, in] with each column as it is when it is rounded to `grid`.

    `gram` [in, in] is that of the input x, `scale` [in] the factor of the weight's columns. Returns
    float32 [out, in]. Does not modify the input.
    """
    adjusted = torch.empty_like(weight)
    for start in range(0, weight.shape[1], BAND):
        band = slice(start, start + BAND)
        order = (gram.diagonal()[band] / scale[band] ** 2).argsort(descending=True, stable=True)
        order = order + start
        ordered = gram[order[:, None], order] / (scale[order, None] * scale[order])
        factor = feedback_factor(ordered)
        for rows in range(0, len(weight), ROWS):
            some = slice(rows, rows + ROWS)
            on = Grid(grid.scale[some], grid.zero[some])
            adjusted[some, order] = _walk(weight[some], on, order, factor, scheme).t()
    return adjusted


def feedback_factor(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """The upper U with U^T U = (gram + damping)^-1, damping in mean diagonals: float32 [in, in].

    U is the inverse of `damped_factor`.
    """
    upper = damped_factor(gram, damping)
    identity = torch.eye(len(upper), device=upper.device)
    return torch.linalg.solve_triangular(upper, identity, upper=True)


def damped_factor(gram: Tensor, damping: float) -> Tensor:
    """The upper R with R R^T = gram + damping, both in mean diagonals: float32 [in, in].

    With the order of the channels reversed, the damped matrix is L L^T (Cholesky); R is L with both
    orders reversed again.
    """
    return torch.linalg.cholesky(damped(gram, damping).flip(0, 1)).flip(0, 1)


def _walk(weight: Tensor, grid: Grid, order: Tensor, factor: Tensor, scheme: Scheme) -> Tensor:
    """The columns `order` of `weight` [out, in] when each is rounded: [len(order), out]."""
    columns = weight.t()[order]
    pairs = zip(grid.scale.t().contiguous(), grid.zero.t().contiguous(), strict=True)
    grids = [Grid(scale, zero) for scale, zero in pairs]
    groups = (order // scheme.group_size).tolist()
    share = factor / factor.diagonal()[:, None]  # of a column's error, for each later column
    for start in range(0, len(columns), STEP):
        stop = min(start + STEP, len(columns))
        errors = torch.empty_like(columns[start:stop])
        for j in range(start, stop):
            column = columns[j]
            rounded = round_trip(column.unsqueeze(1), grids[groups[j]], scheme).squeeze(1)
            error = torch.sub(column, rounded, out=errors[j - start])
            columns[j + 1 : stop].addr_(share[j, j + 1 : stop], error, alpha=-1)
        columns[stop:].addmm_(share[start:stop, stop:].t(), errors, alpha=-1)
    return columns
