"""The grid for feedback: judged by the conditional strength, which is what feedback leaves."""

import pytest
import torch
from torch import Tensor

from helpers.tolerance import assert_within, likely
from salient.awq.end_loss import end_loss
from salient.awq.search import best_grid, gram_blocks
from salient.awq.statistics import LinearStats
from salient.awq.two_sided import round_two_sided
from salient.awq.zero_search import conditional_strength, feedback_grid
from salient.core.quant import Grid, in_groups, minmax_grid, round_trip
from salient.core.scheme import Scheme

ASYM, SYM = Scheme(32), Scheme(32, symmetric=True)
IN = 96
each_scheme = pytest.mark.parametrize("scheme", [ASYM, SYM], ids=str)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(seed: int = 1) -> Tensor:
    """H of tokens that live near few directions, with channels of unlike strength."""
    x = normal(400, 8, seed=seed) @ normal(8, IN, seed=9) + 0.3 * normal(400, IN, seed=7)
    x = x * (normal(IN, seed=8) / 2).exp()
    return x.t() @ x


def errors(weight: Tensor, grid: Grid, strength: Tensor, scheme: Scheme) -> Tensor:
    error = round_trip(in_groups(weight, scheme), grid, scheme) - in_groups(weight, scheme)
    return (error.double().square() * strength.view(-1, scheme.group_size)).sum(-1)


def test_the_conditional_strength_is_the_loss_after_all_others_compensate():
    """The least e^T H e with e_j = 1."""
    gram = end_loss(LinearStats(correlated()), torch.ones(IN), (0.1, 0.1)).inputs
    expected = torch.empty(IN, dtype=torch.float64)
    for j in range(IN):
        others = torch.arange(IN) != j
        inner, cross = gram[others][:, others].double(), gram[others, j].double()
        expected[j] = gram[j, j] - cross @ torch.linalg.solve(inner, cross)
    bound = likely(IN) * float(torch.linalg.cond(gram)) * expected.abs()
    assert_within(conditional_strength(gram).double(), expected, bound)


@each_scheme
def test_no_group_loses_more_than_on_the_whole_range(scheme):
    weight, strength = normal(24, IN) ** 3, normal(IN, seed=2).exp()
    grid = feedback_grid(weight, strength, scheme, torch.bfloat16)
    whole = minmax_grid(weight, scheme, torch.bfloat16)
    after, before = (errors(weight, g, strength, scheme) for g in (grid, whole))
    assert (after <= before * (1 + 1e-5)).all()
    assert after.sum() < 0.85 * before.sum()
    assert torch.equal(grid.scale, grid.scale.bfloat16().float())
    assert torch.equal(grid.zero, grid.zero.round().clamp(0, scheme.max_code))
    assert scheme is ASYM or (grid.zero == scheme.middle).all()


def test_another_zero_than_the_centre_wins_where_one_weight_stands_out():
    weight = torch.linspace(-1, 1, 32)[None].repeat(2, 1)
    weight[1, 0] = 3.0
    grid = feedback_grid(weight, torch.ones(32), ASYM, torch.float16)
    least = errors(weight, grid, torch.ones(32), ASYM)
    for zero in range(16):
        other = Grid(grid.scale, torch.full_like(grid.zero, zero))
        assert (errors(weight, other, torch.ones(32), ASYM) >= least * (1 - 1e-6)).all()


@pytest.mark.parametrize("seed", range(3))
def test_rounding_with_feedback_loses_less_than_on_the_grid_for_rounding_alone(seed):
    stats, ones = LinearStats(correlated(seed)), torch.ones(IN)
    weight = normal(48, IN, seed=seed) ** 3
    loss = end_loss(stats, ones, (0.1, 0.1))

    def lost(grid: Grid) -> float:
        adjusted = round_two_sided(weight, grid, stats, ones, ASYM, (0.1, 0.1))
        return loss.of(round_trip(in_groups(adjusted, ASYM), grid, ASYM).flatten(1) - weight)

    alone = best_grid(weight, gram_blocks(stats.gram, ones, 32), ASYM, torch.float16)
    strength = conditional_strength(loss.inputs)
    assert lost(feedback_grid(weight, strength, ASYM, torch.float16)) < 0.97 * lost(alone)


def test_rows_do_not_depend_on_each_other(monkeypatch):
    weight, strength = normal(24, IN), normal(IN, seed=2).exp()
    whole = feedback_grid(weight, strength, ASYM, torch.float16)
    monkeypatch.setattr("salient.awq.search.CHUNK", 5 * IN)
    parts = feedback_grid(weight, strength, ASYM, torch.float16)
    assert torch.equal(parts.scale, whole.scale)
    assert torch.equal(parts.zero, whole.zero)
