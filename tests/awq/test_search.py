"""The search: scales and grids are judged by the error on the tokens, and never lose to plain ones.

Every law is checked on the tokens themselves, in float64, not on the Gram matrix that the search
saw.
"""

import pytest
import torch
from torch import Tensor

from helpers.tolerance import assert_product, assert_within, likely, worst
from salient.awq.search import (
    IDENTITY,
    best_grid,
    best_scale,
    candidate,
    gram_blocks,
    sample_weights,
)
from salient.awq.statistics import ActStats
from salient.core.quant import Grid, minmax_grid, quantize, round_trip
from salient.core.scheme import Scheme

FLOAT16 = torch.float16
ASYM, SYM = Scheme(32), Scheme(32, symmetric=True)
each_scheme = pytest.mark.parametrize("scheme", [ASYM, SYM], ids=str)
LOUD = (3, 17, 40, 90)  # channels of `salient_tokens` with large activations


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def salient_tokens(count: int = 200, width: int = 96) -> Tensor:
    x = normal(count, width, seed=1)
    x[:, list(LOUD)] *= 30
    return x


def stats_of(x: Tensor) -> ActStats:
    stats = ActStats(x.shape[1])
    stats.add(x)
    return stats


def lost(x: Tensor, weight: Tensor, scale: Tensor, scheme: Scheme, *, size: bool = False) -> float:
    """sum_t |(W - Q(W s) / s) x_t|^2 on the tokens, with plain rounding, in float64.

    `size`: of the sizes of all terms instead, to which errors of float32 are relative.
    """
    rounded = quantize(weight * scale, scheme, name="w", dtype=FLOAT16).dequantize() / scale
    x, error = x.double(), (rounded - weight).double()
    if size:
        x, error = x.abs(), error.abs()
    return float((x @ error.t()).square().sum())


def searched_scale(weights: list[Tensor], x: Tensor, scheme: Scheme, rows: Tensor | None = None):
    stats = stats_of(x)
    parts = ((weight, 1.0) for weight in weights)
    sample = sample_weights(parts, sum(map(len, weights)), x.shape[1], scheme.group_size)
    return best_scale(sample, stats, scheme, FLOAT16, rows)


@each_scheme
def test_salient_channels_get_a_scale_that_is_clearly_better_than_none(scheme):
    x, weight = salient_tokens(), normal(64, 96)
    result = searched_scale([weight], x, scheme)
    assert result.exponents != IDENTITY
    assert lost(x, weight, result.values, scheme) < 0.7 * lost(x, weight, torch.ones(96), scheme)
    quiet = [c for c in range(96) if c not in LOUD]
    assert result.values[list(LOUD)].min() > 1.5 * result.values[quiet].median()


@each_scheme
@pytest.mark.parametrize("seed", range(6))
def test_a_scale_other_than_the_identity_is_never_worse_on_the_tokens(scheme, seed):
    """The whole weight is judged here: these are smaller than the rows that the search samples."""
    x = normal(150, 96, seed=seed) * (normal(96, seed=seed + 10) * (seed / 2)).exp()
    weights = [normal(24, 96, seed=seed + 20), normal(40, 96, seed=seed + 30) * 0.1]
    result = searched_scale(weights, x, scheme)
    whole = torch.cat(weights)
    none = lost(x, whole, torch.ones(96), scheme)
    if result.exponents == IDENTITY:
        assert torch.equal(result.values, torch.ones(96))
    else:
        sizes = [lost(x, whole, s, scheme, size=True) for s in (result.values, torch.ones(96))]
        rounding = likely(len(x) + 96 + whole.numel()) * sum(sizes)
        assert lost(x, whole, result.values, scheme) < none + rounding
        assert rounding < none / 10


def of_candidate(mean_abs: Tensor, salience: Tensor, a: float, b: float) -> float:
    """Relative error of a candidate: the roundings of its logarithm, and those of its exponential.

    The logarithm is a sum of two products, less the mean of two others: 16 roundings at the most,
    each relative to the largest term.
    """
    logs = a * mean_abs.clamp(min=1e-30).log().abs() + b * (salience + 1e-4).log().abs()
    return worst(16) * float(logs.max()) + worst(4)


def test_nothing_is_scaled_where_plain_rounding_is_exact():
    """Weights that are codes already lose nothing: any scale could only harm."""
    codes = torch.randint(0, 16, (32, 64), generator=torch.Generator().manual_seed(0)).float()
    codes[:, ::32], codes[:, 1::32] = 0, 15
    result = searched_scale([(codes - 8) / 8], salient_tokens(width=96)[:, :64], ASYM)
    assert result.exponents == IDENTITY
    assert torch.equal(result.values, torch.ones(64))


def test_channels_of_one_row_share_one_scale():
    x, weight = salient_tokens(), normal(64, 96)
    rows = torch.arange(96).reshape(6, 16)[[0, 0, 2, 2, 5, 5]].flatten()  # two heads a row
    result = searched_scale([weight], x, ASYM, rows)
    assert result.exponents != IDENTITY
    for row in rows.unique():
        shared = result.values[rows == row]
        assert len(shared) == 2
        assert torch.equal(shared, shared[0].expand(2))
    assert len(result.values.unique()) > 20


def test_dead_channels_neither_stretch_the_range_nor_make_nan():
    """A channel that is never active, or one that no weight reads, tells nothing of the others."""
    x, weight = salient_tokens(), normal(64, 96)
    x[:, 32:36] = 0
    weight[:, 36:40] = 0
    stats = stats_of(x)
    salience = torch.rand(96, generator=torch.Generator().manual_seed(5)) + 0.1
    live = stats.mean_abs > 0
    scale = candidate(stats.mean_abs, salience, 1.0, 0.0, None)
    alone = candidate(stats.mean_abs[live], salience[live], 1.0, 0.0, None)
    assert_within(scale[live], alone, of_candidate(stats.mean_abs, salience, 1.0, 0.0) * alone)
    assert torch.equal(scale[~live], scale.min().expand(4))
    result = searched_scale([weight], x, ASYM)
    assert result.values.isfinite().all()
    assert (result.values > 0).all()
    assert lost(x, weight, result.values, ASYM) < lost(x, weight, torch.ones(96), ASYM)


def test_all_channels_dead_gives_a_finite_scale():
    result = searched_scale([normal(32, 64)], torch.zeros(10, 64), ASYM)
    assert result.values.isfinite().all()
    assert torch.equal(candidate(torch.zeros(8), torch.ones(8), 1.0, 0.0, None), torch.ones(8))


@pytest.mark.parametrize("a", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("b", [0.0, 0.5])
def test_a_candidate_is_the_formula_centred_on_one(a, b):
    mean_abs, salience = normal(96).exp(), normal(96, seed=1).sigmoid()
    direct = mean_abs.double() ** a / (salience.double() + 1e-4) ** b
    direct = direct / (direct.max() * direct.min()).sqrt()
    result = candidate(mean_abs, salience, a, b, None)
    assert_within(result, direct, of_candidate(mean_abs, salience, a, b) * direct)


def test_a_tied_candidate_is_the_geometric_mean_over_each_row():
    mean_abs, salience = normal(6).exp(), normal(6, seed=1).sigmoid()
    rows = torch.tensor([4, 0, 4, 0, 1, 4])
    free = candidate(mean_abs, salience, 0.5, 0.5, None).double()
    shared = torch.stack([free[rows == row].log().mean().exp() for row in rows])
    expected = shared / (shared.max() * shared.min()).sqrt()
    result = candidate(mean_abs, salience, 0.5, 0.5, rows)
    bound = 2 * of_candidate(mean_abs, salience, 0.5, 0.5)  # `free` has its own roundings
    assert_within(result, expected, bound * expected)


def test_a_candidate_stays_within_what_float16_can_divide_by():
    extreme = torch.tensor([1e-30, 1.0, 1e30])
    scale = candidate(extreme, torch.ones(3), 1.0, 0.0, None)
    assert scale.isfinite().all()
    assert 0.9e-4 < float(scale.min()) < float(scale.max()) < 1.1e4


def test_gram_blocks_are_the_diagonal_blocks_of_the_scaled_inputs_gram_matrix():
    x, scale = salient_tokens(), normal(96, seed=2).exp()
    scaled = x.double() / scale
    result = gram_blocks(stats_of(x).gram, scale, 32)
    assert result.shape == (3, 32, 32)
    for number, block in enumerate(result):
        part = slice(32 * number, 32 * number + 32)
        assert_product(block, scaled[:, part].t(), scaled[:, part], roundings=2)


def group_errors(x: Tensor, weight: Tensor, grid: Grid, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """sum_t (e_rg . x_tg)^2 for each row r and group g, on the tokens, in float64.

    And how far the search's own figure in float32 may be from it: it is a sum over tokens and over
    pairs of channels, whose terms may cancel.
    """
    grouped = weight.unflatten(1, (-1, scheme.group_size))
    error = (round_trip(grouped, grid, scheme) - grouped).double()
    parts = x.double().unflatten(1, (-1, scheme.group_size))
    exact, sizes = (
        torch.einsum("rgi,tgi->rgt", e, p).square().sum(-1)
        for e, p in ((error, parts), (error.abs(), parts.abs()))
    )
    return exact, likely(len(x) + 2 * scheme.group_size) * sizes


def check_not_worse(result: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    """`found` was chosen over `other`, both from `group_errors`."""
    assert (result[0] <= other[0] + result[1] + other[1]).all()


@each_scheme
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_grid_never_loses_to_plain_rounding_in_any_row_and_group(scheme, dtype):
    x, weight = salient_tokens(), normal(64, 96) ** 3
    scale = normal(96, seed=2).exp()
    blocks = gram_blocks(stats_of(x).gram, scale, 32)
    scaled = weight * scale
    plain = group_errors(x / scale, scaled, minmax_grid(scaled, scheme, dtype), scheme)
    best = best_grid(scaled, blocks, scheme, dtype)
    result = group_errors(x / scale, scaled, best, scheme)
    check_not_worse(result, plain)
    assert result[0].sum() < plain[0].sum() * 0.7
    assert torch.equal(best.scale.to(dtype).half().float(), best.scale)  # exact in 16 bits
    assert torch.equal(best.zero, best.zero.round().clamp(0, 15))


@each_scheme
def test_refitting_the_scale_to_the_codes_lowers_the_error_that_clipping_leaves(
    scheme, monkeypatch
):
    x, weight = salient_tokens(), normal(64, 96) ** 3
    blocks = gram_blocks(stats_of(x).gram, torch.ones(96), 32)
    refitted = best_grid(weight, blocks, scheme, FLOAT16)
    monkeypatch.setattr("salient.awq.search.REFITS", 0)
    clipped = best_grid(weight, blocks, scheme, FLOAT16)
    after, before = (group_errors(x, weight, grid, scheme) for grid in (refitted, clipped))
    check_not_worse(after, before)
    assert after[0].sum() < before[0].sum() * 0.97


def test_a_weight_larger_than_a_chunk_is_searched_row_by_row(monkeypatch):
    x, weight = salient_tokens(), normal(50, 96)
    blocks = gram_blocks(stats_of(x).gram, torch.ones(96), 32)
    whole = best_grid(weight, blocks, ASYM, FLOAT16)
    monkeypatch.setattr("salient.awq.search.CHUNK", 7 * 96)
    parts = best_grid(weight, blocks, ASYM, FLOAT16)
    # a fit between two numbers of 16 bits may fall to either
    assert_within(parts.scale, whole.scale, torch.finfo(FLOAT16).eps * whole.scale)
    assert torch.equal(parts.zero, whole.zero)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_group_of_one_sign_stays_within_its_codes(sign):
    """Values far from zero that share a sign need a range that spans zero.

    A zero point outside 0 to 15 would be clamped, and every value with it.
    """
    weight = sign * (normal(16, 32).abs() * 0.1 + 5.0)
    x = normal(100, 32, seed=1)
    blocks = gram_blocks(stats_of(x).gram, torch.ones(32), 32)
    for scheme in (ASYM, SYM):
        grid = best_grid(weight, blocks, scheme, FLOAT16)
        result = quantize(weight, scheme, name="w", grid=grid).dequantize()
        steps = 1.5 if scheme.symmetric else 1.0
        assert ((result - weight).abs() <= steps * 5.6 / (7.5 if scheme.symmetric else 15)).all()
        plain = minmax_grid(weight, scheme, FLOAT16)
        check_not_worse(
            group_errors(x, weight, grid, scheme), group_errors(x, weight, plain, scheme)
        )
