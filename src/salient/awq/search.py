"""The search: a scale for each shared input, then a grid for each group of weights.

Pure functions of weights and Gram matrices. Both are judged by the exact output error on the
calibration tokens, tr(E G E^T) with E = W - Q(W) (stats.py), so their cost does not grow with the
number of tokens.

1. Scale (Lin et al. 2024, "AWQ", section 3.2): s = mean|x|^a / mean|w|^b, but with both exponents
   free: a coarse grid that holds the identity and the usual line b = 1 - a, judged on few rows of
   the weights, then a finer one around its best, judged on more.
2. Grid: each group's range is shrunk in steps (clip); then its scale is refitted to the codes by
   least squares, codes and scale in turn. Each row and group is on its own here: only the group's
   own block of G counts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.quant import Grid, codes_of, grid_of, in_16_bits, minmax_grid, round_trip
from salient.core.scheme import Scheme

from .statistics import InputStats

IDENTITY = (0.0, 0.0)  # the exponents that scale nothing
EXPONENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
COARSE = [(a, b) for a in EXPONENTS for b in EXPONENTS]
FINE = (-0.125, 0.0, 0.125)
# Values of a weight (evenly spread rows) that judge COARSE and FINE.
FEW, MORE = 3 * 2**13, 3 * 2**14
FEWEST_ROWS = 32
CLIP_RATIOS = (1.0, 0.92, 0.84, 0.76, 0.68, 0.6)  # the refits find what lies between
REFITS = 2
CHUNK = 2**19  # values of a weight worked on at once: they stay in the processor's cache


@dataclass(frozen=True)
class Scale:
    """A scale for a shared input, float32 [in], and its exponents (of activations, of weights)."""

    values: Tensor
    exponents: tuple[float, float]


def output_error(error: Tensor, gram: Tensor) -> float:
    """sum_t |E x_t|^2 = tr(E G E^T) for a rounding error E [out, in] and `gram` G [in, in]."""
    return float(((error @ gram) * error).sum())


@dataclass(frozen=True)
class Sample:
    """The part of a group's weights that the scale search uses.

    salience: float32 [in], mean over all rows of |w| relative to its group's largest value
    few, more: float32 [rows, in], evenly spread rows, each times the square root of the share of
        the tokens that reach it
    """

    salience: Tensor
    few: Tensor
    more: Tensor


def sample_weights(
    weights: Iterable[tuple[Tensor, float]], rows: int, width: int, group_size: int
) -> Sample:
    """Read `weights` once, one at a time: float32 [out, in], and the share of tokens it gets.

    `rows` and `width` are those of all weights stacked.
    """
    picks = [spread_rows(rows, width, values) for values in (FEW, MORE)]
    picked: list[list[Tensor]] = [[], []]
    salience, start = torch.zeros(width), 0
    for weight, share in weights:
        salience = salience.to(weight.device) + _salience(weight, group_size)
        for rows_, into in zip(picks, picked, strict=True):
            own = rows_[(rows_ >= start) & (rows_ < start + len(weight))] - start
            into.append(weight[own.to(weight.device)] * share**0.5)
        start += len(weight)
    return Sample(salience / start, *(torch.cat(parts) for parts in picked))


def _salience(weight: Tensor, group_size: int) -> Tensor:
    total = torch.zeros_like(weight[0])
    for part in in_chunks(weight):
        grouped = part.unflatten(1, (-1, group_size)).abs()
        relative = grouped / grouped.amax(-1, keepdim=True).clamp(min=1e-30)
        total += relative.flatten(1).sum(0)
    return total


def spread_rows(out: int, width: int, values: int = MORE) -> Tensor:
    """Evenly spread rows of [out, width] with about `values` values in all; int64."""
    count = min(max(FEWEST_ROWS, values // width), out)
    return torch.linspace(0, out - 1, count).round().long()


def candidate(
    mean_abs: Tensor, salience: Tensor, a: float, b: float, rows: Tensor | None
) -> Tensor:
    """s = mean|x|^a / mean|w|^b, centred on 1: float32 [in].

    `rows` int64 [in] names the absorber's row of each channel; channels of one row share the
    geometric mean. Dead channels (no activation, no weight) take the smallest live value, so that
    they cannot stretch the range.
    """
    live = mean_abs > 0
    floor = mean_abs[live].min() if bool(live.any()) else torch.ones((), device=mean_abs.device)
    log = a * torch.maximum(mean_abs, floor).log() - b * (salience + 1e-4).log()
    if rows is not None:
        total = torch.zeros(int(rows.max()) + 1, device=log.device)
        shared = total.index_add(0, rows, log) / total.index_add(
            0, rows, torch.ones_like(log)
        ).clamp(min=1)
        log = shared[rows]
    log = log - (log.max() + log.min()) / 2
    return log.clamp(-9.2, 9.2).exp()  # within 1e-4 to 1e4


def best_scale(
    sample: Sample, stats: InputStats, scheme: Scheme, dtype: torch.dtype, rows: Tensor | None
) -> Scale:
    """The scale with the least output error for the weights of `sample`, on the tokens of `stats`.

    `rows`: as for `candidate`.
    """
    mean_abs, gram = stats.mean_abs, stats.gram

    def best(exponents: Iterable[tuple[float, float]], weight: Tensor) -> tuple[float, float]:
        errors = {}
        for a, b in exponents:
            scale = candidate(mean_abs, sample.salience, a, b, rows)
            lost = _scaled_round_trip(weight, scale, scheme, dtype).sub_(weight)
            errors[a, b] = output_error(lost, gram)
        return min(errors, key=lambda pair: errors[pair])

    a, b = best(COARSE, sample.few)
    near = [IDENTITY, *((a + da, b + db) for da in FINE for db in FINE)]
    exponents = best(near, sample.more)
    if exponents == IDENTITY:
        return Scale(torch.ones_like(mean_abs), IDENTITY)
    return Scale(candidate(mean_abs, sample.salience, *exponents, rows), exponents)


def in_chunks(weight: Tensor) -> tuple[Tensor, ...]:
    """`weight` [out, in] in parts of rows that are worked on at once."""
    return weight.split(max(1, CHUNK // weight.shape[1]))


def _scaled_round_trip(weight: Tensor, scale: Tensor, scheme: Scheme, dtype: torch.dtype) -> Tensor:
    scaled = weight * scale
    grid = minmax_grid(scaled, scheme, dtype)
    return (
        round_trip(scaled.unflatten(1, (-1, scheme.group_size)), grid, scheme)
        .flatten(1)
        .div_(scale)
    )


def best_grid(weight: Tensor, blocks: Tensor, scheme: Scheme, dtype: torch.dtype) -> Grid:
    """The grid with the least output error for each row and group of `weight` float32 [out, in].

    `blocks` are those of the input that this weight reads (`gram_blocks`).
    """
    parts = [_best_grid(part, blocks, scheme, dtype) for part in in_chunks(weight)]
    return Grid(torch.cat([p.scale for p in parts]), torch.cat([p.zero for p in parts]))


def gram_blocks(gram: Tensor, scale: Tensor, group_size: int) -> Tensor:
    """The diagonal blocks of the Gram matrix of x / scale.

    `gram` [in, in] is that of x, `scale` [in] what the weight's columns were multiplied by. Returns
    float32 [groups, group_size, group_size].
    """
    starts = range(0, len(gram), group_size)
    blocks = torch.stack([gram[i : i + group_size, i : i + group_size] for i in starts])
    parts = scale.reshape(-1, group_size)
    return blocks / (parts[:, :, None] * parts[:, None, :])


def _best_grid(weight: Tensor, blocks: Tensor, scheme: Scheme, dtype: torch.dtype) -> Grid:
    grouped = weight.unflatten(1, (-1, scheme.group_size))
    low, high = grouped.amin(-1), grouped.amax(-1)
    best = grid_of(low, high, scheme, dtype)
    least = _group_errors(grouped, best, blocks, scheme)
    for ratio in CLIP_RATIOS[1:]:
        best, least = _better_of(
            grouped, best, least, grid_of(low * ratio, high * ratio, scheme, dtype), blocks, scheme
        )
    for _ in range(REFITS):
        refitted = Grid(in_16_bits(_least_squares(grouped, best, blocks, scheme), dtype), best.zero)
        best, least = _better_of(grouped, best, least, refitted, blocks, scheme)
    return best


def _better_of(
    grouped: Tensor, best: Grid, least: Tensor, other: Grid, blocks: Tensor, scheme: Scheme
) -> tuple[Grid, Tensor]:
    errors = _group_errors(grouped, other, blocks, scheme)
    better = errors < least
    grid = Grid(
        torch.where(better, other.scale, best.scale), torch.where(better, other.zero, best.zero)
    )
    return grid, torch.where(better, errors, least)


def _group_errors(grouped: Tensor, grid: Grid, blocks: Tensor, scheme: Scheme) -> Tensor:
    """Each row's and group's own output error: float32 [out, groups]."""
    error = round_trip(grouped, grid, scheme).sub_(grouped).transpose(0, 1)
    return (torch.bmm(error, blocks) * error).sum(-1).t()


def _least_squares(grouped: Tensor, grid: Grid, blocks: Tensor, scheme: Scheme) -> Tensor:
    """The scale with which c = codes - zero fits best: <c, w>_G / <c, c>_G, [out, groups]."""
    steps = codes_of(grouped, grid, scheme).sub_(grid.zero[..., None]).transpose(0, 1)
    weighed = torch.bmm(steps, blocks)
    fit = (weighed * grouped.transpose(0, 1)).sum(-1) / (weighed * steps).sum(-1).clamp(min=1e-30)
    return torch.where(fit.t() > 0, fit.t(), grid.scale)
