"""Scale refit: all scales of a weight jointly, for codes that stay.

With steps K = codes - zero, W' = sum_g s_ig K_ig is linear in the scales s [out, groups], and so
the end loss is a quadratic in them. Its minimum, regularized towards the present scales s0:

    (A + mu diag A) (s - s0) = -K^T HO (W'(s0) - W) H      A = K^T (HO x H) K

Without HO, A is one [groups, groups] matrix a row, U^T H U. With HO rows couple: the system is
solved by conjugate gradients, preconditioned by the rows' own blocks (Nocedal and Wright,
"Numerical Optimization", algorithm 5.3), each iteration of which lowers the loss.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from salient.core.quant import Grid, codes_of, in_16_bits, in_groups
from salient.core.scheme import Scheme

from .end_loss import EndLoss

PULL = 0.03  # mu: towards the present scales, in units of the diagonal
ITERATIONS = 6


def refit_scales(
    weight: Tensor,
    rounded: Tensor,
    grid: Grid,
    loss: EndLoss,
    scheme: Scheme,
    dtype: torch.dtype,
    pull: float = PULL,
) -> Grid:
    """The grid whose scales suit the codes of `rounded` float32 [out, in] best, in 16 bits.

    `weight` float32 [out, in] is the target; zeros stay. Returns `grid` itself if the loss does not
    fall once the scales are stored.
    """
    steps = codes_of(in_groups(rounded, scheme), grid, scheme).sub_(grid.zero[..., None])
    error = rounded - weight
    own = _own_blocks(steps, loss)
    diagonal = own.diagonal(dim1=1, dim2=2)
    # Groups whose codes are all zero keep their scale.
    diagonal = (diagonal + 1e-6 * diagonal.mean()).clamp(min=1e-30)
    own.diagonal(dim1=1, dim2=2).add_(pull * diagonal)
    factor = torch.linalg.cholesky(own)

    def curvature(change: Tensor) -> Tensor:
        turned = loss.gradient((steps * change[..., None]).flatten(1))
        return (in_groups(turned, scheme) * steps).sum(-1) + pull * diagonal * change

    def precondition(residual: Tensor) -> Tensor:
        return torch.cholesky_solve(residual[..., None], factor).squeeze(-1)

    slope = (in_groups(loss.gradient(error), scheme) * steps).sum(-1)
    change = precondition(-slope)
    if loss.outputs:
        change = _conjugate_gradients(curvature, precondition, -slope)
    scale = grid.scale + change
    refitted = Grid(in_16_bits(torch.where(scale > 0, scale, grid.scale), dtype), grid.zero)
    after = (steps * refitted.scale[..., None]).flatten(1) - weight
    return refitted if loss.of(after) < loss.of(error) else grid


def _own_blocks(steps: Tensor, loss: EndLoss) -> Tensor:
    """The diagonal blocks HO_ii U_i^T H U_i of each row: float32 [out, groups, groups].

    `steps` is [out, groups, group_size].
    """
    out, groups, size = steps.shape
    blocks = torch.empty(out, groups, groups, device=steps.device)
    for group, columns in enumerate(loss.inputs.split(size)):
        turned = (steps[:, group] @ columns).view_as(steps)
        blocks[:, group] = (turned * steps).sum(-1)
    for rows, gram in loss.bands(out):
        if gram is not None:
            blocks[rows] *= gram.diagonal()[:, None, None]
    return blocks


def _conjugate_gradients(
    curvature: Callable[[Tensor], Tensor], precondition: Callable[[Tensor], Tensor], right: Tensor
) -> Tensor:
    """An approximate solution of curvature(x) = right, from 0."""
    solution, residual = torch.zeros_like(right), right
    direction = preconditioned = precondition(residual)
    power = (residual * preconditioned).sum()
    for _ in range(ITERATIONS):
        bent = curvature(direction)
        length = power / (direction * bent).sum().clamp(min=1e-30)
        solution = solution + length * direction
        residual = residual - length * bent
        preconditioned = precondition(residual)
        before, power = power, (residual * preconditioned).sum()
        direction = preconditioned + power / before.clamp(min=1e-30) * direction
    return solution
