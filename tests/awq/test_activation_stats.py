"""Statistics stand for the tokens: their sums, added in any parts, give the exact output error."""

import pytest
import torch
from torch import Tensor, nn

from helpers.tolerance import assert_product, assert_within, likely, worst
from salient.awq.search import output_error
from salient.awq.statistics import PANELS, ActStats
from salient.models.block_call import InputRecorder

WIDTHS = [1, PANELS - 1, PANELS, PANELS + 1, 32, 61, 16 * PANELS]  # few divide by the panels


def tokens(width: int, count: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 3 + 0.5


def stats_of(*parts: Tensor) -> ActStats:
    built = ActStats(parts[0].shape[1])
    for part in parts:
        built.add(part)
    return built


def check_gram(stats: ActStats, x: Tensor) -> None:
    """The Gram matrix is the sum of x x^T over the tokens."""
    assert_product(stats.gram, x.t(), x)


def check_mean(stats: ActStats, x: Tensor) -> None:
    expected = x.double().abs().mean(0)
    assert_within(stats.mean_abs, expected, worst(len(x) + 1) * expected)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_gram_matrix_is_the_sum_of_outer_products_over_tokens(width):
    x = tokens(width)
    stats = stats_of(x)
    assert stats.gram.shape == (width, width)
    check_gram(stats, x)


@pytest.mark.parametrize("width", WIDTHS)
def test_mean_abs_is_the_mean_magnitude_of_each_channel(width):
    x = tokens(width)
    check_mean(stats_of(x), x)


@pytest.mark.parametrize("width", WIDTHS)
def test_adding_in_parts_equals_adding_at_once(width):
    x = tokens(width)
    for stats in (stats_of(x), stats_of(*x.split([1, 7, 32]))):
        assert stats.tokens == 40
        check_gram(stats, x)
        check_mean(stats, x)


def test_reading_the_gram_matrix_between_parts_changes_nothing():
    x = tokens(61)
    first, second = x.split(20)
    read = stats_of(first)
    assert read.gram.isfinite().all()
    read.add(second)
    check_gram(read, x)


@pytest.mark.parametrize("width", WIDTHS)
def test_merged_statistics_are_those_of_all_the_tokens(width):
    ours, theirs = tokens(width, 17), tokens(width, 29, seed=1)
    merged, other = stats_of(ours), stats_of(theirs)
    assert other.gram.isfinite().all()  # one that was read may be merged, too
    merged.merge(other)
    both = torch.cat([ours, theirs])
    assert merged.tokens == 46
    check_gram(merged, both)
    check_mean(merged, both)
    check_gram(other, theirs)


def test_statistics_of_sixteen_bit_tokens_are_summed_in_float32():
    x = tokens(7, 4000).to(torch.bfloat16)
    check_mean(stats_of(x), x)
    check_gram(stats_of(x), x)


def test_no_tokens_give_zeros_not_nan():
    empty = ActStats(7)
    assert torch.equal(empty.mean_abs, torch.zeros(7))
    assert torch.equal(empty.gram, torch.zeros(7, 7))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_trace_of_e_g_e_is_the_output_error_on_the_tokens(width):
    x = tokens(width)
    error = torch.randn(9, width, generator=torch.Generator().manual_seed(2)) * 0.01
    direct = sum(float((error.double() @ t).square().sum()) for t in x.double())
    # two sums, over tokens and over channels, of products that may cancel, then one of all outputs
    size = float((error.double().abs() @ x.double().abs().t()).square().sum())
    bound = likely(len(x) + width + error.numel()) * size
    assert output_error(error, stats_of(x).gram) == pytest.approx(direct, rel=0, abs=bound)


class Layered(nn.Module):
    """Two linears, the second behind the first; returns a tuple if asked to."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(7, 5), nn.Linear(5, 7)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.second(self.first(hidden))


def test_a_recorder_catches_inputs_as_tokens_and_takes_its_hooks_away():
    block, x = Layered(), tokens(7, 12).reshape(3, 4, 7)
    with InputRecorder(block, ["first", "second"]) as recorder:
        block(x)
    caught = dict(recorder.inputs)
    assert torch.equal(caught["first"], x.flatten(0, 1))
    assert torch.equal(caught["second"], block.first(x).detach().flatten(0, 1))
    assert not caught["second"].requires_grad
    block(-x)
    assert all(recorder.inputs[name] is caught[name] for name in caught)
    assert not any(module._forward_pre_hooks for module in block.modules())


def test_a_recorder_takes_its_hooks_away_when_the_block_fails():
    block = Layered()
    with pytest.raises(RuntimeError), InputRecorder(block, ["first", "second"]):
        block(tokens(3))
    assert not any(module._forward_pre_hooks for module in block.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_statistics_report_a_value_that_is_not_finite_or_overflows(value):
    stats = ActStats(16)
    stats.add(torch.ones(4, 16))
    assert stats.finite
    x = torch.ones(4, 16)
    x[2, 5] = value
    stats.add(x)
    assert not stats.finite
