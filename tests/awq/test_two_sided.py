"""Two-sided feedback: later rows and columns make up for earlier ones, as a plain walk does."""

import pytest
import torch
from torch import Tensor

from helpers.tolerance import assert_within, likely
from salient.awq.error_feedback import with_feedback
from salient.awq.statistics import LinearStats
from salient.awq.two_sided import (
    DAMPINGS,
    INPUT_DAMPING,
    OUTPUT_DAMPING,
    best_dampings,
    round_two_sided,
)
from salient.core.quant import Grid, minmax_grid, quantize
from salient.core.scheme import Scheme

ASYM, SYM = Scheme(32), Scheme(32, symmetric=True)
each_scheme = pytest.mark.parametrize("scheme", [ASYM, SYM], ids=str)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(width: int, count: int = 400, seed: int = 1, noise: float = 0.3) -> Tensor:
    """Tokens that live near few directions, with channels of unlike strength."""
    x = normal(count, 8, seed=seed) @ normal(8, width, seed=9)
    return (x + noise * normal(count, width, seed=seed + 1)) * (normal(width, seed=8) * 0.5).exp()


def setting(scheme: Scheme, out: int = 40, width: int = 96):
    """(weight, grid, stats, scale): a scaled weight, its grid, and the statistics of both sides."""
    x, d, scale = tokens(width), tokens(out, seed=5), (normal(width, seed=3) * 0.3).exp()
    weight = normal(out, width) * scale
    stats = LinearStats(x.t() @ x, (d.t() @ d,))
    return weight, minmax_grid(weight, scheme, torch.float16), stats, scale


def unit_lower(gram: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """The order of a side and its unit lower L: gram + damping = L^T D L in that order, float64."""
    order = gram.diagonal().argsort(descending=True, stable=True)
    damped = gram.double()[order][:, order] / gram.double().diagonal().mean()
    damped += damping * torch.eye(len(gram), dtype=torch.float64)
    lower = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1).t()
    return order, lower / lower.diagonal()[:, None]


def naive(weight: Tensor, grid: Grid, stats: LinearStats, scale: Tensor, scheme: Scheme) -> Tensor:
    """Value by value in float64: each target has the effect of all earlier errors."""
    rows, left = unit_lower(stats.output_grams[0], OUTPUT_DAMPING)
    columns, right = unit_lower(stats.gram / (scale[:, None] * scale), INPUT_DAMPING)
    weight, built = weight.double(), torch.empty_like(weight).double()
    error = torch.zeros_like(built)
    for i, row in enumerate(rows.tolist()):
        base = left[i, :i] @ error[:i]
        for j, column in enumerate(columns.tolist()):
            target = weight[row, column] + base[j] + (base + error[i])[:j] @ right[j, :j]
            step, zero = (t[row, column // scheme.group_size] for t in (grid.scale, grid.zero))
            code = ((target / step).round() + zero).clamp(0, scheme.max_code)
            error[i, j] = weight[row, column] - (code - zero) * step
            built[row, column] = target
    return built


def loss(weight: Tensor, built: Tensor, grid: Grid, stats: LinearStats, scheme: Scheme) -> float:
    """tr(HO E H E^T) of the rounding error, in float64."""
    error = (quantize(built, scheme, name="w", grid=grid).dequantize() - weight).double()
    return float(((stats.output_grams[0].double() @ error) * (error @ stats.gram.double())).sum())


def rounding(stats: LinearStats, scale: Tensor, expected: Tensor) -> Tensor:
    """How far a walk in float32 may be from `expected`: its sums, times the factors' conditions."""
    condition = 1.0
    scaled = stats.gram / (scale[:, None] * scale)
    for gram, damping in ((scaled, INPUT_DAMPING), (stats.output_grams[0], OUTPUT_DAMPING)):
        condition *= float(torch.linalg.cond(unit_lower(gram, damping)[1]))
    return likely(len(scale) + len(expected)) * condition * expected.abs().amax()


@pytest.mark.parametrize(("tile", "scheme"), [(7, ASYM), (32, SYM)])
def test_two_sided_feedback_equals_a_walk_value_by_value(tile, scheme, monkeypatch):
    monkeypatch.setattr("salient.awq.two_sided.TILE", tile)
    weight, grid, stats, scale = setting(scheme, out=20, width=64)
    built = round_two_sided(weight, grid, stats, scale, scheme)
    expected = naive(weight, grid, stats, scale, scheme)
    assert_within(built, expected, rounding(stats, scale, expected))
    assert float((expected - weight).abs().max()) > 0.05


@each_scheme
def test_equal_and_independent_gradients_leave_the_feedback_of_columns(scheme):
    weight, grid, stats, scale = setting(scheme)
    one_sided = with_feedback(weight, grid, stats.gram, scale, scheme)
    independent = LinearStats(stats.gram, (torch.eye(len(weight)),))
    built = round_two_sided(weight, grid, independent, scale, scheme)
    assert_within(built, one_sided, rounding(independent, scale, one_sided))
    absent = round_two_sided(weight, grid, LinearStats(stats.gram), scale, scheme)
    assert torch.equal(absent, one_sided)


def test_independent_inputs_and_gradients_feed_nothing_back():
    weight, grid, stats, scale = setting(ASYM)
    diagonal = LinearStats(stats.gram.diagonal().diag(), (stats.output_grams[0].diagonal().diag(),))
    assert torch.equal(round_two_sided(weight, grid, diagonal, scale, ASYM), weight)


@pytest.mark.parametrize("band", [32, 64])
def test_bands_of_outputs_and_of_inputs_are_walks_of_their_own(band, monkeypatch):
    monkeypatch.setattr("salient.awq.two_sided.BAND", band)
    weight, grid, stats, scale = setting(ASYM)
    whole = stats.output_grams[0]
    halves = LinearStats(stats.gram, (whole[:25, :25], whole[25:, 25:]))
    built = round_two_sided(weight, grid, halves, scale, ASYM)
    for rows, gram in ((slice(25), whole[:25, :25]), (slice(25, 40), whole[25:, 25:])):
        for start in range(0, 96, band):
            columns = slice(start, start + band)
            groups = slice(start // 32, (start + band) // 32)
            on = Grid(grid.scale[rows, groups], grid.zero[rows, groups])
            part = LinearStats(stats.gram[columns, columns], (gram,))
            alone = round_two_sided(weight[rows, columns], on, part, scale[columns], ASYM)
            assert_within(built[rows, columns], alone, rounding(part, scale[columns], alone))


@each_scheme
@pytest.mark.parametrize("seed", range(3))
def test_correlated_gradients_lose_less_with_feedback_of_rows(scheme, seed):
    """On tokens that the rounding does not see."""
    weight, grid, stats, one = *setting(scheme)[:3], torch.ones(96)
    x, d = tokens(96, seed=seed + 50), tokens(40, seed=seed + 70)
    unseen = LinearStats(x.t() @ x, (d.t() @ d,))
    one_sided = with_feedback(weight, grid, stats.gram, one, scheme)
    two_sided = round_two_sided(weight, grid, stats, one, scheme)
    lost = [loss(weight, built, grid, unseen, scheme) for built in (one_sided, two_sided)]
    assert lost[1] < 0.7 * lost[0]


@pytest.mark.parametrize("band", [32, 96])
def test_the_dampings_have_the_least_expected_loss_of_independent_errors(band, monkeypatch):
    """Against the loss of E = LO^-1 e LI^-T on the held-out Gram matrices, written out."""
    monkeypatch.setattr("salient.awq.two_sided.BAND", band)
    x, d = tokens(96, count=60, seed=2), tokens(40, count=60, seed=3)
    stats, scale = LinearStats(x.t() @ x, (d.t() @ d,)), (normal(96, seed=3) * 0.3).exp()
    unseen = tokens(96, seed=20), tokens(40, seed=30)

    def expected(gram: Tensor, outside: Tensor, damping: float) -> float:
        order, lower = unit_lower(gram, damping)
        inverse, outside = lower.inverse(), outside.double()[:, order]
        return float((inverse.t() @ (outside.t() @ outside) @ inverse).trace())

    def inputs(damping: float) -> float:
        scaled, loss = stats.gram / (scale[:, None] * scale), 0.0
        for start in range(0, 96, band):
            part = slice(start, start + band)
            loss += expected(scaled[part, part], (unseen[0] / scale)[:, part], damping)
        return loss

    def outputs(damping: float) -> float:
        return expected(stats.output_grams[0], unseen[1], damping)

    best = min(DAMPINGS, key=inputs), min(DAMPINGS, key=outputs)
    assert best_dampings(stats, scale, *unseen) == best


def test_statistics_of_few_tokens_are_damped_more():
    def both(count: int, seed: int) -> tuple[Tensor, Tensor]:
        return tokens(96, count, seed, noise=4.0), tokens(40, count, seed + 10, noise=4.0)

    few, many = (
        best_dampings(LinearStats(x.t() @ x, (d.t() @ d,)), torch.ones(96), *both(400, 20))
        for x, d in (both(12, 2), both(2000, 2))
    )
    assert few[0] > many[0]
    assert few[1] > many[1]


def test_two_sided_feedback_modifies_none_of_its_inputs():
    weight, grid, stats, scale = setting(ASYM)
    inputs = (weight, grid.scale, grid.zero, stats.gram, stats.output_grams[0], scale)
    before = [t.clone() for t in inputs]
    round_two_sided(weight, grid, stats, scale, ASYM)
    assert all(map(torch.equal, before, inputs))
