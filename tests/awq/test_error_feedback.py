"""Error feedback: later columns make up for earlier ones, as a plain column-by-column walk does."""

import pytest
import torch
from torch import Tensor

from helpers.tolerance import assert_within, likely
from salient.awq.error_feedback import DAMPING, feedback_factor, with_feedback
from salient.awq.search import best_grid, gram_blocks
from salient.core.quant import Grid, minmax_grid, quantize
from salient.core.scheme import Scheme

ASYM, SYM = Scheme(32), Scheme(32, symmetric=True)
each_scheme = pytest.mark.parametrize("scheme", [ASYM, SYM], ids=str)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(count: int = 400, width: int = 96, seed: int = 1) -> Tensor:
    """Tokens that live near few directions, with channels of unlike strength."""
    x = normal(count, 8, seed=seed) @ normal(8, width, seed=9) + 0.3 * normal(count, width, seed=7)
    return x * normal(width, seed=8).exp()


def damped(gram: Tensor) -> Tensor:
    """The Gram matrix with DAMPING mean diagonals, in mean diagonals: float64."""
    gram = gram.double() / gram.double().diagonal().mean()
    return gram + DAMPING * torch.eye(len(gram), dtype=torch.float64)


def of_factor(gram: Tensor) -> float:
    """Relative error of a factor of the inverse of `gram`: that of a sum, times the condition.

    Higham, Accuracy and Stability of Numerical Algorithms, theorems 8.5 and 10.3.
    """
    return likely(len(gram)) * float(torch.linalg.cond(gram))


def of_walk(gram: Tensor, scale: Tensor, expected: Tensor) -> Tensor:
    """How far a walk in float32 may be from `expected`, row by row."""
    gram = damped(gram.double() / (scale[:, None] * scale).double())
    return of_factor(gram) * expected.abs().amax(1, keepdim=True)


def naive(weight: Tensor, grid: Grid, gram: Tensor, scale: Tensor, scheme: Scheme) -> Tensor:
    """OBQ with a fixed order in float64: the inverse is eliminated column by column."""
    gram = gram.double() / (scale[:, None] * scale).double()
    inverse = damped(gram).inverse()
    now, built = weight.double().clone(), torch.empty_like(weight).double()
    for j in gram.diagonal().argsort(descending=True, stable=True).tolist():
        group = j // scheme.group_size
        step, zero = grid.scale[:, group].double(), grid.zero[:, group].double()
        built[:, j] = now[:, j]
        codes = (now[:, j] / step).round().add(zero).clamp(0, scheme.max_code)
        error = now[:, j] - (codes - zero) * step
        now -= error[:, None] * (inverse[j] / inverse[j, j])
        inverse -= inverse[:, j : j + 1] * inverse[j : j + 1] / inverse[j, j]
        inverse[j], inverse[:, j] = 0.0, 0.0
        inverse[j, j] = 1.0
    return built


def setting(scheme: Scheme, width: int = 96):
    """(weight, grid, gram, scale): a scaled weight, its grid, and what its input looks like."""
    x, scale = correlated(width=width), (normal(width, seed=3) * 0.3).exp()
    weight = normal(24, width) * scale
    return weight, minmax_grid(weight, scheme, torch.float16), x.t() @ x, scale


def output_error(x: Tensor, weight: Tensor, built: Tensor, grid: Grid, scheme: Scheme) -> float:
    """sum_t |(Q(made) - W) x_t|^2 on the tokens, in float64."""
    rounded = quantize(built, scheme, name="w", grid=grid).dequantize()
    return float((x.double() @ (rounded - weight).double().t()).square().sum())


@pytest.mark.parametrize("width", [1, 5, 64, 96])
def test_the_factor_is_upper_and_its_square_is_the_inverse_of_the_damped_gram(width):
    x = correlated(width=width)
    factor = feedback_factor(x.t() @ x)
    assert torch.equal(factor, factor.triu())
    assert (factor.diagonal() > 0).all()
    square, gram = factor.double().t() @ factor.double(), damped(x.t() @ x)
    identity = torch.eye(width, dtype=torch.float64)
    assert_within(square @ gram, identity, of_factor(gram))


def test_more_damping_means_less_feedback():
    x = correlated()

    def feedback(damping: float) -> float:
        factor = feedback_factor(x.t() @ x, damping)
        return float((factor / factor.diagonal()[:, None]).triu(1).abs().mean())

    assert feedback(0.01) > feedback(0.5) > feedback(100.0) > 0


def test_the_factor_exists_for_a_gram_of_fewer_tokens_than_channels_and_of_none():
    x = correlated(count=3)
    assert feedback_factor(x.t() @ x).isfinite().all()
    assert feedback_factor(torch.zeros(8, 8)).isfinite().all()


@each_scheme
def test_uncorrelated_inputs_feed_nothing_back(scheme):
    weight, grid, gram, scale = setting(scheme)
    diagonal = gram.diagonal().diag()
    assert torch.equal(with_feedback(weight, grid, diagonal, scale, scheme), weight)
    assert not torch.equal(with_feedback(weight, grid, gram, scale, scheme), weight)


@each_scheme
@pytest.mark.parametrize("step", [1, 7, 64, 1000])
def test_feedback_equals_a_walk_column_by_column(scheme, step, monkeypatch):
    monkeypatch.setattr("salient.awq.error_feedback.STEP", step)
    weight, grid, gram, scale = setting(scheme)
    result = with_feedback(weight, grid, gram, scale, scheme)
    expected = naive(weight, grid, gram, scale, scheme)
    assert_within(result, expected, of_walk(gram, scale, expected))
    assert float((expected - weight).abs().max()) > 0.05


@pytest.mark.parametrize("band", [1, 40, 64, 95])
def test_each_band_of_columns_is_a_walk_of_its_own(band, monkeypatch):
    monkeypatch.setattr("salient.awq.error_feedback.BAND", band)
    monkeypatch.setattr("salient.awq.error_feedback.STEP", 16)
    weight, grid, gram, scale = setting(ASYM)
    result = with_feedback(weight, grid, gram, scale, ASYM)
    groups = torch.arange(96) // ASYM.group_size
    for start in range(0, 96, band):
        part = slice(start, start + band)
        each = Grid(grid.scale[:, groups[part]], grid.zero[:, groups[part]])
        expected = naive(weight[:, part], each, gram[part, part], scale[part], Scheme(1))
        bound = of_walk(gram[part, part], scale[part], expected)
        assert_within(result[:, part], expected, bound)


def test_rows_do_not_feed_back_on_each_other(monkeypatch):
    weight, grid, gram, scale = setting(ASYM)
    whole = with_feedback(weight, grid, gram, scale, ASYM)
    alone = []
    for row in weight.split(1):
        i = len(alone)
        on = Grid(grid.scale[i : i + 1], grid.zero[i : i + 1])
        alone.append(with_feedback(row, on, gram, scale, ASYM))
    bound = of_walk(gram, scale, whole)
    assert_within(torch.cat(alone), whole, bound)
    monkeypatch.setattr("salient.awq.error_feedback.ROWS", 5)
    parts = with_feedback(weight, grid, gram, scale, ASYM)
    assert_within(parts, whole, bound)


@each_scheme
@pytest.mark.parametrize("seed", range(4))
def test_correlated_inputs_lose_less_with_feedback_than_rounded_to_the_nearest(scheme, seed):
    """On the tokens that were seen, and on others like them, under the grid that is searched."""
    recorded, unseen = correlated(seed=seed), correlated(seed=seed + 50)
    gram, one, weight = recorded.t() @ recorded, torch.ones(96), normal(24, 96, seed=seed)
    grid = best_grid(weight, gram_blocks(gram, one, 32), scheme, torch.float16)
    built = with_feedback(weight, grid, gram, one, scheme)
    for x in (recorded, unseen):
        nearest = output_error(x, weight, weight, grid, scheme)
        assert output_error(x, weight, built, grid, scheme) < 0.7 * nearest


def test_feedback_modifies_none_of_its_inputs():
    weight, grid, gram, scale = setting(ASYM)
    before = [t.clone() for t in (weight, grid.scale, grid.zero, gram, scale)]
    with_feedback(weight, grid, gram, scale, ASYM)
    feedback_factor(gram)
    assert all(map(torch.equal, before, (weight, grid.scale, grid.zero, gram, scale)))
