"""Two-sided error feedback: later columns and later rows make up for earlier rounding errors.

The end loss of a rounding error E = W - Q [out, in] is tr(HO E H E^T) to second order, with H from
inputs and HO from output gradients (`LinearStats`); one-sided feedback is the case HO = 1. With the
unit lower factors of both, HO = LO^T DO LO and H = LI^T DI LI (DO, DI diagonal),

    tr(HO E H E^T) = sum_ij DO_ii DI_jj e_ij^2        e = LO E LI^T

and e_ij depends only on E_ab with a <= i and b <= j: it is least when W_ij is rounded after all of
these, from the target that makes e_ij the error of that rounding alone (Tseng et al. 2025, "YAQA",
section 3.2; Frantar et al. 2023, "GPTQ", for one side). Rows and columns are walked in order of
strength.

The walk is exact. It goes by antidiagonals, whose values do not depend on each other: first those
of the tiles, all tiles of one at once, then those within each tile. Between tiles the feedback is a
matrix product.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.quant import Grid, round_trip
from salient.core.scheme import Scheme

from .error_feedback import BAND, damped_factor, with_feedback
from .statistics import LinearStats

INPUT_DAMPING, OUTPUT_DAMPING = 0.5, 0.2  # times the mean diagonal of H and of HO
DAMPINGS = (0.1, 0.3, 1.0, 3.0)  # among which held-out tokens decide
TILE = 32  # rows and columns: small ones mean more products, large ones longer walks


def round_two_sided(
    weight: Tensor,
    grid: Grid,
    stats: LinearStats,
    scale: Tensor,
    scheme: Scheme,
    damping: tuple[float, float] = (INPUT_DAMPING, OUTPUT_DAMPING),
) -> Tensor:
    """`weight` [out, in] with each value as it is when it is rounded to `grid`: float32 [out, in].

    `scale` [in] is the factor of the weight's columns, `damping` that of H and of HO in mean
    diagonals. Without output Gram matrices: `with_feedback`. Does not modify the input.
    """
    if not stats.output_grams:
        return with_feedback(weight, grid, stats.gram, scale, scheme)
    adjusted = torch.empty_like(weight)
    rows = [_side(gram, damping[1]) for gram in stats.output_grams]
    for start, gram in _input_bands(stats, scale):
        columns, top = _side(gram, damping[0]), 0
        order = columns.order + start
        groups = order // scheme.group_size
        for side in rows:
            picked = (side.order + top)[:, None]
            on = Grid(grid.scale[picked, groups], grid.zero[picked, groups])
            adjusted[picked, order] = _walk(weight[picked, order], on, side, columns, scheme)
            top += len(side.order)
    return adjusted


def best_dampings(
    stats: LinearStats, scale: Tensor, inputs: Tensor, gradients: Tensor
) -> tuple[float, float]:
    """The dampings of H and of HO with the least expected loss on tokens outside of `stats`.

    `inputs`: x float32 [tokens, in], each times the root of its weight w; `gradients`: d float32
    [tokens, out].

    Independent errors e of equal variance become E = LO^-1 e LI^-T. Their expected loss on the
    tokens X and D is in proportion to |X LI^-1|^2 |D LO^-1|^2 (Frobenius norms): each side is
    decided alone, and no weight is rounded for it.
    """
    columns = [gram for _, gram in _input_bands(stats, scale)]
    return _best_damping(columns, inputs / scale), _best_damping(stats.output_grams, gradients)


def _best_damping(grams: Iterable[Tensor], tokens: Tensor) -> float:
    """That of DAMPINGS; `grams` are those of bands of the channels of `tokens` [tokens, n]."""
    expected, start = dict.fromkeys(DAMPINGS, 0.0), 0
    for gram in grams:
        order = gram.diagonal().argsort(descending=True, stable=True)
        ordered, own = gram[order[:, None], order], tokens[:, order + start]
        for damping in DAMPINGS:
            lower = _unit_lower(ordered, damping)
            spread = torch.linalg.solve_triangular(
                lower, own, upper=False, left=False, unitriangular=True
            )
            expected[damping] += float(spread.square().sum())
        start += len(gram)
    return min(expected, key=lambda damping: expected[damping])


def _input_bands(stats: LinearStats, scale: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The first column and H of the scaled input of each band of columns."""
    for start in range(0, len(scale), BAND):
        band = slice(start, start + BAND)
        yield start, stats.gram[band, band] / (scale[band, None] * scale[band])


def _unit_lower(gram: Tensor, damping: float) -> Tensor:
    """L with gram + damping = L^T D L, damping in mean diagonals: float32 [n, n]."""
    factor = damped_factor(gram, damping)
    return (factor / factor.diagonal()).t()


@dataclass(frozen=True)
class _Side:
    """The rows or the columns of a walk, n of them, padded to whole tiles.

    order: int64 [n], strongest first
    within: float32 [tiles, TILE, TILE], the inverse of each diagonal block of the unit lower factor
    between: float32 [tiles * TILE, tiles * TILE], the factor with each row of blocks times `within`
    """

    order: Tensor
    within: Tensor
    between: Tensor


def _side(gram: Tensor, damping: float) -> _Side:
    order = gram.diagonal().argsort(descending=True, stable=True)
    tiles = -(-len(order) // TILE)
    lower = torch.eye(tiles * TILE, device=gram.device)
    lower[: len(order), : len(order)] = _unit_lower(gram[order[:, None], order], damping)
    blocks = lower.unflatten(0, (tiles, TILE)).unflatten(2, (tiles, TILE))
    own = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    identity = torch.eye(TILE, device=gram.device).expand_as(own)
    within = torch.linalg.solve_triangular(own, identity, upper=False, unitriangular=True)
    between = torch.bmm(within, lower.unflatten(0, (tiles, TILE))).flatten(0, 1)
    return _Side(order, within, between)


def _walk(weight: Tensor, grid: Grid, rows: _Side, columns: _Side, scheme: Scheme) -> Tensor:
    """`weight` [out, in], in the order of the walk, as each value is when it is rounded.

    `grid` float32 [out, in] is that of each value.
    """
    out, width = weight.shape
    shape = len(rows.between), len(columns.between)
    pad = (0, shape[1] - width, 0, shape[0] - out)
    weight = torch.nn.functional.pad(weight, pad)
    steps = _tiled(torch.nn.functional.pad(grid.scale, pad, value=1.0))
    zeros = _tiled(torch.nn.functional.pad(grid.zero, pad))
    adjusted, error, residual = (torch.zeros_like(weight) for _ in range(3))
    across = columns.within.flip(-1)
    down, right = len(rows.within), len(columns.within)
    for step in range(down + right - 1):
        at = torch.arange(max(0, step - right + 1), min(down, step + 1))
        places = [_place(k, step - k) for k in at.tolist()]
        bases = [
            torch.addmm(weight[i, j], rows.between[i, : i.start], error[: i.start, j])
            for i, j in places
        ]
        targets = torch.stack(
            [
                torch.addmm(base, residual[i, : j.start], columns.between[j, : j.start].t())
                for base, (i, j) in zip(bases, places, strict=True)
            ]
        )
        on = Grid(steps[at, step - at], zeros[at, step - at])
        walked = _walk_tiles(targets, on, rows.within[at], across[step - at], scheme)
        for (i, j), base, target, rounded in zip(places, bases, walked, targets, strict=True):
            adjusted[i, j] = target
            torch.sub(weight[i, j], rounded, out=error[i, j])
            torch.sub(base, rounded, out=residual[i, j])
    return adjusted[:out, :width]


def _place(row: int, column: int) -> tuple[slice, slice]:
    """The rows and columns of a tile."""
    top, left = row * TILE, column * TILE
    return slice(top, top + TILE), slice(left, left + TILE)


def _tiled(values: Tensor) -> Tensor:
    """[rows, columns] as [tiles down, tiles across, TILE, TILE]: a copy."""
    return values.unflatten(0, (-1, TILE)).unflatten(2, (-1, TILE)).transpose(1, 2).contiguous()


def _walk_tiles(
    targets: Tensor, grid: Grid, down: Tensor, across: Tensor, scheme: Scheme
) -> Tensor:
    """The values of tiles that do not depend on each other, as each is when it is rounded.

    `targets`: float32 [tiles, TILE, TILE], after the feedback of all earlier tiles; overwritten by
    the rounded values. `down`, `across`: the inverse factor of each tile's rows, and that of its
    columns with the columns of the factor in reverse.
    """
    adjusted = torch.empty_like(targets)
    flat, steps, zeros = targets.flatten(1), grid.scale.flatten(1), grid.zero.flatten(1)
    for step in range(2 * TILE - 1):
        first, last = max(0, step - TILE + 1), min(TILE, step + 1)
        line = slice(step + first * (TILE - 1), step + (last - 1) * (TILE - 1) + 1, TILE - 1)
        value = flat[:, line].clone()
        adjusted.flatten(1)[:, line] = value
        on = Grid(steps[:, line], zeros[:, line])
        error = value.sub_(round_trip(value.unsqueeze(-1), on, scheme).squeeze(-1))
        behind = TILE - 1 - step
        spread = across[:, :, first + behind : last + behind].transpose(1, 2)
        targets.baddbmm_(down[:, :, first:last] * error[:, None], spread, alpha=-1)
    return adjusted
