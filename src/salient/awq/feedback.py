"""Error feedback: let later columns of a weight make up for the rounding errors of earlier ones.

Columns are rounded in turn, the strongest inputs first; each column's error is spread over the
columns not yet rounded, along the rows of the Cholesky factor of the inverse Gram matrix (Frantar
et al. 2023, "GPTQ", section 3.3 and algorithm 1; the grids are fixed beforehand). What comes back is
the weight as each column stood when its turn came: rounding it to the nearest code gives the codes
of the walk, so that core.quant stays the only place that rounds for good.

The Gram matrix of a few thousand tokens is trusted only in part: DAMPING adds a multiple of its mean
diagonal. GPTQ's usual 0.01 fits the calibration tokens too closely (benchmarks/RESULTS.md).
"""

import torch
from torch import Tensor

from salient.core.quant import Grid, round_trip
from salient.core.scheme import Scheme

DAMPING = 0.5  # times the mean diagonal of the Gram matrix
BAND = 2048  # columns that feed back on each other: bounds memory and time for wide inputs
STEP = 64  # columns whose feedback on the rest of the band is one matrix product


def with_feedback(
    weight: Tensor, grid: Grid, gram: Tensor, scale: Tensor, scheme: Scheme
) -> Tensor:
    """`weight` [out, in] as its columns stand when they are rounded to `grid` in turn: float32
    [out, in].

    `gram` [in, in] is that of the input x, `scale` [in] what the weight's columns were multiplied
    by.
    Does not modify the input.
    """
    made = torch.empty_like(weight)
    for start in range(0, weight.shape[1], BAND):
        band = torch.arange(start, min(start + BAND, weight.shape[1]), device=weight.device)
        scaled = gram[band][:, band] / (scale[band, None] * scale[band])
        order = scaled.diagonal().argsort(descending=True, stable=True)
        factor = feedback_factor(scaled[order][:, order])
        walked = _walk(weight, grid, band[order], factor, scheme)
        made[:, band[order]] = walked.t()
    return made


def feedback_factor(gram: Tensor, damping: float = DAMPING) -> Tensor:
    """The upper Cholesky factor of the inverse of `gram` [in, in] plus damping: float32 [in,
    in]."""
    mean = gram.diagonal().mean().clamp(min=1e-30)
    damped = gram / mean
    damped.diagonal().add_(damping)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def _walk(weight: Tensor, grid: Grid, order: Tensor, factor: Tensor, scheme: Scheme) -> Tensor:
    """Walk over the columns `order` of `weight` [out, in]: those columns as rounded, [len(order),
    out]."""
    columns = weight.t()[order]
    groups = (order // scheme.group_size).tolist()
    for start in range(0, len(columns), STEP):
        stop = min(start + STEP, len(columns))
        errors = torch.empty_like(columns[start:stop])
        for j in range(start, stop):
            on = Grid(grid.scale[:, groups[j]], grid.zero[:, groups[j]])
            rounded = round_trip(columns[j][:, None], on, scheme)[:, 0]
            errors[j - start] = (columns[j] - rounded) / factor[j, j]
            columns[j + 1 : stop].addr_(factor[j, j + 1 : stop], errors[j - start], alpha=-1)
        columns[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    return columns
