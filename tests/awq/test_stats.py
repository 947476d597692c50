"""Statistics stand for the tokens: their sums, added in any parts, give the exact output error."""

import pytest
import torch
from torch import Tensor, nn

from salient.awq.search import output_error
from salient.awq.stats import PANELS, ActStats, Recorder

WIDTHS = [1, PANELS - 1, PANELS, PANELS + 1, 32, 61, 16 * PANELS]  # few divide by the panels


def tokens(width: int, count: int = 40, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 3 + 0.5


def stats_of(*parts: Tensor) -> ActStats:
    made = ActStats(parts[0].shape[1])
    for part in parts:
        made.add(part)
    return made


def gram_of(x: Tensor) -> Tensor:
    """The sum of x x^T, token by token, in float64."""
    return sum((t[:, None] * t[None, :] for t in x.double()), torch.zeros(()).double())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_gram_matrix_is_the_sum_of_outer_products_over_tokens(width):
    x = tokens(width)
    gram = stats_of(x).gram
    assert gram.shape == (width, width)
    close(gram, gram_of(x))


@pytest.mark.parametrize("width", WIDTHS)
def test_mean_abs_is_the_mean_magnitude_of_each_channel(width):
    x = tokens(width)
    close(stats_of(x).mean_abs, x.double().abs().mean(0))


@pytest.mark.parametrize("width", WIDTHS)
def test_adding_in_parts_equals_adding_at_once(width):
    x = tokens(width)
    whole, parts = stats_of(x), stats_of(*x.split([1, 7, 32]))
    assert parts.tokens == whole.tokens == 40
    close(parts.gram, whole.gram)
    close(parts.mean_abs, whole.mean_abs)


def test_reading_the_gram_matrix_between_parts_changes_nothing():
    first, second = tokens(61).split(20)
    read, unread = stats_of(first), stats_of(first, second)
    assert read.gram.isfinite().all()
    read.add(second)
    close(read.gram, unread.gram)


@pytest.mark.parametrize("width", WIDTHS)
def test_merged_statistics_are_those_of_all_the_tokens(width):
    ours, theirs = tokens(width, 17), tokens(width, 29, seed=1)
    merged, other = stats_of(ours), stats_of(theirs)
    assert other.gram.isfinite().all()  # one that was read may be merged, too
    merged.merge(other)
    both = torch.cat([ours, theirs])
    assert merged.tokens == 46
    close(merged.gram, gram_of(both))
    close(merged.mean_abs, both.double().abs().mean(0))
    close(other.gram, gram_of(theirs))


def test_statistics_of_sixteen_bit_tokens_are_summed_in_float32():
    x = tokens(7, 4000).to(torch.bfloat16)
    close(stats_of(x).mean_abs, x.double().abs().mean(0))
    expected = x.double().t() @ x.double()
    torch.testing.assert_close(stats_of(x).gram.double(), expected, rtol=1e-4, atol=1e-2)


def test_no_tokens_give_zeros_not_nan():
    empty = ActStats(7)
    assert torch.equal(empty.mean_abs, torch.zeros(7))
    assert torch.equal(empty.gram, torch.zeros(7, 7))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_trace_of_e_g_e_is_the_output_error_on_the_tokens(width):
    x = tokens(width)
    error = torch.randn(9, width, generator=torch.Generator().manual_seed(2)) * 0.01
    direct = sum(float((error.double() @ t).square().sum()) for t in x.double())
    assert output_error(error, stats_of(x).gram) == pytest.approx(direct, rel=1e-4)


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
    with Recorder(block, ["first", "second"]) as recorder:
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
    with pytest.raises(RuntimeError), Recorder(block, ["first", "second"]):
        block(tokens(3))
    assert not any(module._forward_pre_hooks for module in block.modules())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
def test_statistics_tell_of_a_value_that_is_not_finite_or_overflows(value):
    stats = ActStats(16)
    stats.add(torch.ones(4, 16))
    assert stats.finite
    x = torch.ones(4, 16)
    x[2, 5] = value
    stats.add(x)
    assert not stats.finite
