"""The explorer's rounding is core.quant's; folded scales are fitted."""

import pytest
import torch

from helpers.tolerance import assert_within, likely, worst
from salient.awq.search import spread_rows
from salient.core.quant import quantize
from salient.core.scheme import Scheme
from salient.explorer.rounding import Rounding, fit_folded, output_power

RANDOM = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=RANDOM)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [False, True])
def test_without_scale_and_clip_it_is_plain_rounding(bits, symmetric):
    weight, scheme = random(8, 64), Scheme(32, symmetric, bits)
    rounding, ones = Rounding(scheme, 1.0, torch.float16), torch.ones(64)
    plain = quantize(weight, scheme, name="w")
    assert torch.equal(rounding.of(weight, ones), plain.dequantize())
    codes, grid = rounding.codes(weight, ones)
    assert torch.equal(codes, plain.codes)
    assert torch.equal(grid.scale, plain.scale)


def test_a_scale_is_multiplied_before_rounding_and_divided_after():
    weight, scale = random(8, 64), random(64).exp()
    scheme = Scheme(32)
    rounded = Rounding(scheme, 1.0, torch.float16).of(weight, scale)
    wanted = quantize(weight * scale, scheme, name="w").dequantize() / scale
    assert_within(rounded, wanted, worst(4) * wanted.abs())


def test_a_clipped_range_ends_where_it_is_clipped():
    weight = random(4, 32)
    rounded = Rounding(Scheme(32), 0.5, torch.float16).of(weight, torch.ones(32))
    step = (weight.amax(1) - weight.amin(1)) / 30
    assert bool((rounded.amax(1) <= weight.amax(1) / 2 + step).all())
    assert bool((rounded.amin(1) >= weight.amin(1) / 2 - step).all())


def test_more_bits_lose_less():
    weight, tokens = random(16, 64), random(50, 64)
    lost = []
    for bits in range(2, 9):
        rounding = Rounding(Scheme(32, bits=bits), 1.0, torch.float16)
        lost.append(output_power(rounding.of(weight, torch.ones(64)) - weight, tokens))
    assert lost == sorted(lost, reverse=True)
    assert lost[-1] < lost[0] / 500


def test_the_tokens_give_the_error_of_their_gram_matrix():
    error, tokens = random(8, 64), random(50, 64)
    gram = tokens.t() @ tokens
    size = float((error.abs() @ tokens.abs().t()).square().sum())
    bound = likely(64 + 50 + error.numel()) * size
    assert abs(output_power(error, tokens) - float(((error @ gram) * error).sum())) <= bound


@pytest.mark.parametrize(("by_columns", "by_rows"), [(1, 0), (0, 1), (1, 1)])
def test_folded_scales_are_fitted_and_unfolded(by_columns, by_rows):
    weight = random(512, 256)
    columns = (0.4 * random(256) * by_columns).exp()
    rows = (random(512) * by_rows).exp()
    written = quantize(weight * columns, Scheme(32), name="w").dequantize() * rows[:, None]
    folded = fit_folded(weight, written, columns=bool(by_columns), rows=bool(by_rows))
    apart = folded.columns / columns  # but for one factor of all, which rows have the other half of
    torch.testing.assert_close(apart, apart.mean().expand(256), rtol=0.06, atol=0)
    wanted = quantize(weight * columns, Scheme(32), name="w").dequantize() / columns
    unfolded = folded.unfold(weight, written)
    errors = [float((rounded - weight).norm()) for rounded in (unfolded, wanted)]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


def test_dead_channels_and_rows_have_no_scale():
    weight = random(64, 32)
    weight[:, 3], weight[5] = 0, 0
    folded = fit_folded(weight, weight * 2, columns=True, rows=True)
    assert float(folded.columns[3]) == 1.0
    assert torch.isfinite(folded.unfold(weight, weight * 2)).all()


def test_rows_are_spread_from_the_first_to_the_last():
    assert spread_rows(1000, 2048).tolist()[::31] == [0, 999]
    assert spread_rows(20, 64).tolist() == list(range(20))
