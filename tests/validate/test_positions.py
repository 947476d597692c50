"""Figures token by token: their sums, their course over positions, and whether they grow."""

import numpy as np
import pytest
import torch

from helpers.tolerance import nats
from salient.core.intervals import FEWEST
from salient.core.metrics import ROWS, compare_logits
from salient.validate.context.positions import (
    STRETCH,
    by_position,
    compare_tokens,
    growth,
    token_sums,
)


def noise(tokens: int, seed: int, mean: float = 0.1) -> np.ndarray:
    """KL as texts have it: skewed, with stretches that are harder than others."""
    chance = np.random.default_rng(seed)
    hard = np.repeat(chance.lognormal(0, 0.5, -(-tokens // 50)), 50)[:tokens]
    return mean * hard * chance.exponential(1.0, tokens)


def test_tokens_sum_to_the_comparison_of_the_text():
    tokens, vocab = 2 * ROWS + 17, 30
    dice = torch.Generator().manual_seed(0)
    reference, quantized = (torch.randn(tokens, vocab, generator=dice) for _ in range(2))
    reference[3, 5] = -torch.inf
    ids = torch.randint(6, vocab, (tokens + 1,), generator=dice)
    figures = compare_tokens(reference, quantized, ids[1:])
    assert figures.shape == (4, tokens)
    # the last token's next one is known here and not there
    expected = compare_logits(reference, quantized, ids[:-1])
    sums, short = token_sums(figures), token_sums(figures[:, :-1])
    assert (sums.tokens, sums.agreed) == (expected.tokens, expected.agreed)
    rounding = 2 * nats(reference)  # of a token's figures, which are more than a tenth of a nat
    assert sums.kl_sum == pytest.approx(expected.kl_sum, rel=10 * rounding)
    assert short.predicted == expected.predicted
    assert short.nll_reference == pytest.approx(expected.nll_reference, rel=rounding)
    assert short.nll_quantized == pytest.approx(expected.nll_quantized, rel=rounding)


def test_each_position_is_the_mean_of_the_windows_that_reach_it():
    windows = [np.full(n, float(n)) for n in (64, 64, 64, 64, 64, 128)]
    buckets = by_position(windows, 4)
    assert [(b.first, b.last) for b in buckets] == [(0, 31), (32, 63), (64, 95), (96, 127)]
    assert [b.kl for b in buckets] == pytest.approx([448 / 6, 448 / 6, 128, 128])
    assert [b.windows for b in buckets] == [6, 6, 1, 1]
    assert [b.interval is None for b in buckets] == [False, False, True, True]


def test_a_bucket_in_which_a_window_ends_is_weighted_by_tokens():
    long, short = np.full(60, 1.0), np.full(35, 4.0)
    last = by_position([long, short], 2)[1]
    assert last.kl == pytest.approx((30 * 1 + 5 * 4) / 35)


def test_buckets_never_outnumber_positions():
    assert [b.first for b in by_position([np.ones(3)], 32)] == [0, 1, 2]


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.5])
def test_growth_is_the_factor_between_the_same_tokens_late_and_early(factor):
    covered = 0
    for trial in range(40):
        early = [noise(400, 100 * trial + n) for n in range(8)]
        jitter = np.random.default_rng(trial)
        late = [factor * kl * jitter.lognormal(0, 0.4, kl.size) / 1.0833 for kl in early]
        figures = growth(late, early)
        assert figures.drawn == "8 windows"
        covered += figures.interval.low <= factor <= figures.interval.high
        if factor != 1:
            assert figures.grows is (factor > 1)
    assert covered >= 34  # of 40 at 95 %: 38 are expected


def test_hard_text_at_the_end_is_no_growth():
    """The last quarter has five times the KL; so has the same text by itself."""
    hard = [noise(300, n, mean=0.5) for n in range(6)]
    late = [kl * np.random.default_rng(n).uniform(0.9, 1.1, kl.size) for n, kl in enumerate(hard)]
    figures = growth(late, hard)
    assert figures.value == pytest.approx(1, abs=0.03)
    assert figures.grows is None


def test_few_windows_are_resampled_by_stretches():
    window = noise(STRETCH * FEWEST, 3)
    figures = growth([window], [window])
    assert figures.drawn == f"{FEWEST} stretches of {STRETCH} tokens"
    assert figures.interval.low <= 1 <= figures.interval.high
    short = window[: STRETCH * 2]
    assert growth([short], [short]).interval is None
    assert growth([short], [short]).grows is None


def test_equal_models_have_no_growth():
    rounding = np.abs(np.random.default_rng(0).normal(0, 1e-7, 500))
    assert growth([rounding], [rounding]) is None
