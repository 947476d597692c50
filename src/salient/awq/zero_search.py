"""The grid of each group for rounding with feedback: scale ratios and integer zeros.

Feedback makes later weights pay for what a weight loses, as far as inputs correlate. What stays is
its error times the conditional strength of its input,

    sum_j e_j^2 / (H^-1)_jj

(the loss of one error after all other weights have made up for it: Hassibi and Stork 1993, "Optimal
Brain Surgeon", equation 5). The errors of a group's other weights do not count here: feedback
decides them. Every pair of a scale and a zero near the middle of the range is judged by this sum,
then the scale is refitted to the codes by weighted least squares.
"""

import torch
from torch import Tensor

from salient.core.quant import Grid, codes_of, grid_of, in_16_bits, in_groups, round_trip
from salient.core.scheme import Scheme

from .search import in_chunks

RATIOS = tuple(1.02 - 0.04 * step for step in range(12))  # of the scale that spans the range
ZEROS = (-1, 0, 1)  # from the zero that centres the range
REFITS = 2


def conditional_strength(inputs: Tensor) -> Tensor:
    """1 / diag(H^-1), the strength of each input given all others: [in].

    `inputs` is H [in, in], damped.
    """
    return 1 / torch.cholesky_inverse(torch.linalg.cholesky(inputs)).diagonal()


def feedback_grid(weight: Tensor, strength: Tensor, scheme: Scheme, dtype: torch.dtype) -> Grid:
    """The grid on which `weight` float32 [out, in] loses least when it is rounded with feedback.

    `strength` [in] is the conditional strength of each column.
    """
    weights = strength.view(-1, scheme.group_size)
    parts = [_best(in_groups(part, scheme), weights, scheme, dtype) for part in in_chunks(weight)]
    return Grid(torch.cat([p.scale for p in parts]), torch.cat([p.zero for p in parts]))


def _best(grouped: Tensor, strength: Tensor, scheme: Scheme, dtype: torch.dtype) -> Grid:
    """The best grid of each row and group of `grouped` [out, groups, group_size]."""
    low, high = grouped.amin(-1), grouped.amax(-1)
    best = grid_of(low, high, scheme, dtype)
    least = _errors(grouped, best, strength, scheme)

    def accept(scale: Tensor, zero: Tensor) -> None:
        nonlocal best, least
        errors = _errors(grouped, Grid(scale, zero), strength, scheme)
        better = errors < least
        least = torch.where(better, errors, least)
        best = Grid(torch.where(better, scale, best.scale), torch.where(better, zero, best.zero))

    whole, middle = best, (low + high) / 2
    for ratio in RATIOS:
        scale = in_16_bits(whole.scale * ratio, dtype)
        centred = (scheme.max_code / 2 - middle / scale).round_()
        for offset in (0,) if scheme.symmetric else ZEROS:
            zero = whole.zero if scheme.symmetric else centred + offset
            accept(scale, zero.clamp(0, scheme.max_code))
    for _ in range(REFITS):
        accept(in_16_bits(_fitted_scale(grouped, best, strength, scheme), dtype), best.zero)
    return best


def _errors(grouped: Tensor, grid: Grid, strength: Tensor, scheme: Scheme) -> Tensor:
    """The weighted squared error of each row and group: [out, groups]."""
    error = round_trip(grouped, grid, scheme).sub_(grouped).square_()
    return torch.einsum("ogk,gk->og", error, strength)


def _fitted_scale(grouped: Tensor, grid: Grid, strength: Tensor, scheme: Scheme) -> Tensor:
    """The scale with which c = codes - zero fits best: <c, w> / <c, c>, [out, groups]."""
    steps = codes_of(grouped, grid, scheme).sub_(grid.zero[..., None])
    weighed = steps * strength
    fit = (weighed * grouped).sum(-1) / (weighed * steps).sum(-1).clamp(min=1e-30)
    return torch.where(fit > 0, fit, grid.scale)
