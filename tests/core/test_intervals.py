"""Intervals: how often they hold the truth, published examples, and what they refuse."""

import math
import re
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from helpers.tolerance import worst
from salient.core import intervals
from salient.core.errors import RequestError
from salient.core.intervals import (
    FEWEST,
    MANY,
    Interval,
    bootstrap_ratio,
    mcnemar,
    quantile,
    ratio,
    studentized,
    trials_below,
    wilson,
)

SIZES = (30, 100, 500)
# Of 2500 repetitions at 95 %, the share that holds the truth strays by 0.44 % (one standard error).
REPEATED = 2500
HONEST = (0.93, 0.97)


def drawn(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def mean(values, level: float = 0.95) -> Interval:
    """The interval of a mean: the ratio of the values' sum to their count."""
    return bootstrap_ratio(np.asarray(values, dtype=np.float64), np.ones(len(values)), level)


def covered(tops: np.ndarray, bottoms: np.ndarray, truth: float) -> float:
    """The share of the columns whose 95 % interval of sum(tops) / sum(bottoms) holds the truth."""
    low, high = studentized(tops, bottoms, level=0.95, resamples=500, seed=1)
    return float(((low <= truth) & (truth <= high)).mean())


# How often the truth is held

SAMPLERS = {
    "normal": (lambda rng, shape: rng.normal(3, 2, shape), 3.0),
    "uniform": (lambda rng, shape: rng.random(shape), 0.5),
    "exponential": (lambda rng, shape: rng.exponential(1, shape), 1.0),
}


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_interval_of_a_mean_holds_it_as_often_as_it_says(name, n):
    sample, truth = SAMPLERS[name]
    values = sample(drawn(n), (n, REPEATED))
    assert HONEST[0] <= covered(values, np.ones_like(values), truth) <= HONEST[1]


def test_the_normal_formula_would_not_be_honest_for_few_skewed_values():
    """Why the bootstrap is studentized: the formula in its place falls out of the band."""
    values = drawn(30).exponential(1, (30, REPEATED))
    half = 1.96 * values.std(0, ddof=1) / math.sqrt(30)
    assert (abs(values.mean(0) - 1) <= half).mean() < HONEST[0]


@pytest.mark.parametrize("n", SIZES)
def test_the_interval_of_a_paired_difference_holds_it_as_often_as_it_says(n):
    rng = drawn(n)
    reference = rng.exponential(2, (n, REPEATED))  # what makes a window hard is in both
    quantized = reference + rng.exponential(0.1, (n, REPEATED))
    lost = quantized - reference
    assert HONEST[0] <= covered(lost, np.ones_like(lost), 0.1) <= HONEST[1]


@pytest.mark.parametrize("n", SIZES)
def test_the_interval_of_a_ratio_holds_it_as_often_as_it_says(n):
    rng = drawn(n)
    reference = rng.gamma(2, 1, (n, REPEATED))
    quantized = 0.7 * reference + rng.exponential(0.3, (n, REPEATED))
    assert HONEST[0] <= covered(quantized, reference, (0.7 * 2 + 0.3) / 2) <= HONEST[1]


@pytest.mark.parametrize("n", [100, 500])
def test_the_interval_over_clusters_of_all_sizes_holds_the_mean_as_often_as_it_says(n):
    rng = drawn(n)
    sizes = rng.integers(1, 20, (n, REPEATED)).astype(float)
    level = rng.exponential(1, (n, REPEATED))  # shared by the values of a cluster
    sums = sizes * level + np.sqrt(sizes) * rng.normal(size=(n, REPEATED))
    assert HONEST[0] <= covered(sums, sizes, 1.0) <= HONEST[1]


def exact_coverage(n: int, p: float) -> float:
    """How often Wilson's interval holds `p`: every outcome, weighed by its probability."""
    outcomes = ((wilson(k, n), math.comb(n, k) * p**k * (1 - p) ** (n - k)) for k in range(n + 1))
    return sum(weight for result, weight in outcomes if result.low <= p <= result.high)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("n", "most"), [(30, 0.975), (100, 0.97), (500, 0.97)])
def test_the_interval_of_a_share_holds_it_as_often_as_it_says(n, most, p):
    """30 trials at 0.1 have few outcomes that are likely: no interval meets 95 % exactly."""
    assert 0.93 <= exact_coverage(n, p) <= most


# n, the reference's accuracy, the share lost of what it solves, the share gained of the rest
PAIRED = [
    (30, 0.5, 0.1, 0.1, 1.0),
    (100, 0.5, 0.1, 0.1, 0.98),
    (100, 0.9, 0.1, 0.4, 0.98),
    (500, 0.5, 0.1, 0.05, 0.97),
    (500, 0.1, 0.3, 0.02, 0.97),
    (500, 0.9, 0.05, 0.1, 0.97),
]


@pytest.mark.parametrize(("n", "p", "lost", "gained", "most"), PAIRED)
def test_intervals_of_paired_answers_contain_the_truth_at_the_stated_rate(n, p, lost, gained, most):
    """Where few examples differ there are few outcomes, and the intervals are too wide, never too
    narrow."""
    rng = drawn(n)
    reference = rng.random((2000, n)) < p
    luck = rng.random((2000, n))
    quantized = np.where(reference, luck >= lost, luck < gained)
    truth = (p * (1 - lost) + (1 - p) * gained) / p
    pairs = zip(quantized.astype(float), reference.astype(float), strict=True)
    shares = [ratio(q, r) for q, r in pairs]
    assert HONEST[0] <= np.mean([share.low <= truth <= share.high for share in shares]) <= most


# Published examples

# Complete response before and after consolidation therapy (Cavo et al., 2012), the example of
# Fagerland, Lydersen and Laake (2014, Statist. Med. 33, 2850-2875): 59 both, 6 and 16 one alone.
BEFORE = [1] * 59 + [1] * 6 + [0] * 16 + [0] * 80
AFTER = [1] * 59 + [0] * 6 + [1] * 16 + [0] * 80


def test_a_ratio_of_paired_shares_is_that_of_the_published_example():
    result = ratio(BEFORE, AFTER)
    shown = f"{result.middle:.4f} ({result.low:.4f} to {result.high:.4f})"
    assert shown == "0.8667 (0.7579 to 0.9910)"


def test_mcnemar_is_that_of_the_published_example():
    assert f"{mcnemar(6, 16):.6f}" == "0.052479"


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (1, 0), (3, 3), (0, 12), (25, 9), (40, 60)])
def test_mcnemar_is_the_sum_of_the_outcomes_of_a_fair_coin(b, c):
    tail = sum(Fraction(math.comb(b + c, k), 2 ** (b + c)) for k in range(min(b, c) + 1))
    assert math.isclose(mcnemar(b, c), min(1, 2 * tail), rel_tol=1e-9)
    assert mcnemar(b, c) == mcnemar(c, b)


def test_mcnemar_of_many_flips_neither_overflows_nor_takes_all_for_luck():
    assert 0 <= mcnemar(40_000, 60_000) < 1e-300
    assert mcnemar(50_000, 50_000) == 1


def test_wilson_is_that_of_the_published_examples():
    """Newcombe (1998, Statist. Med. 17, 857-872), table I, method 3."""
    for successes, trials, ends in [
        (81, 263, ("0.2553", "0.3662")),
        (15, 148, ("0.0624", "0.1605")),
        (0, 20, ("0.0000", "0.1611")),
        (1, 29, ("0.0061", "0.1718")),
    ]:
        result = wilson(successes, trials)
        assert (f"{result.low:.4f}", f"{result.high:.4f}") == ends


# Laws


@pytest.mark.parametrize("n", [1, 10, 500])
def test_a_share_of_none_or_all_is_not_certain(n):
    none, every = wilson(0, n), wilson(n, n)
    assert none.low == none.middle == 0 < none.high < 1
    assert every.high == every.middle == 1 > every.low > 0
    assert math.isclose(none.high, 1 - every.low)


def test_a_retention_without_any_loss_is_not_certain():
    result = ratio([1] * 50 + [0] * 10, [1] * 50 + [0] * 10)
    assert result.low < result.middle == 1 < result.high


def test_a_higher_level_is_wider():
    values = drawn(0).normal(size=40)
    widths = [mean(values, level=level).width for level in (0.8, 0.95, 0.99)]
    assert widths == sorted(set(widths))
    assert wilson(3, 9, 0.8).width < wilson(3, 9, 0.99).width


def test_the_same_values_give_the_same_interval_and_another_seed_another():
    values, ones = drawn(1).exponential(size=50), np.ones(50)
    assert mean(values) == mean(list(values))
    first, second = (studentized(values, ones, level=0.95, seed=seed) for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("n", [1, FEWEST - 1])
def test_too_few_values_have_no_bounds(n):
    result = mean([2.0] * n)
    assert (result.low, result.middle, result.high) == (-math.inf, 2.0, math.inf)
    assert math.isfinite(mean([*range(FEWEST)]).width)


def test_equal_values_leave_no_doubt_and_one_far_value_leaves_a_bounded_one():
    assert mean([0.5] * 30).width == 0
    result = mean([0.0] * 29 + [1.0])
    assert result.low < 1 / 30 < wilson(1, 30).high < result.high < 1


def test_the_interval_moves_and_stretches_with_its_values():
    values = drawn(2).exponential(size=60)
    result, other = mean(values), mean(5 + 3e-9 * values)
    for a, b in [(result.low, other.low), (result.middle, other.middle), (result.high, other.high)]:
        assert math.isclose(b, 5 + 3e-9 * a, abs_tol=5 * worst(16, torch.float64))


def test_tokens_of_one_window_do_not_count_as_many():
    windows = drawn(3).normal(size=40)
    by_window = bootstrap_ratio(50 * windows, np.full(40, 50.0))
    assert math.isclose(by_window.width, mean(windows).width, rel_tol=1e-6)
    assert by_window.width > 5 * mean(np.repeat(windows, 50)).width


def test_the_normal_interval_of_very_many_agrees_with_the_bootstrap_of_one_less():
    values = drawn(5).exponential(size=MANY)
    many, fewer = mean(values), mean(values[:-1])
    assert math.isclose(many.width, fewer.width, rel_tol=0.1)


def test_very_many_values_have_the_normal_interval(monkeypatch):
    monkeypatch.setattr(intervals, "MANY", 8)
    values = drawn(10).normal(size=8)
    half = 1.959964 * values.std(ddof=1) / math.sqrt(8)
    result = mean(values)
    assert result.low == pytest.approx(values.mean() - half)
    assert result.high == pytest.approx(values.mean() + half)


def test_an_interval_goes_through_a_rising_function():
    assert Interval(1, 2, 3, 0.9).through(lambda x: 2 * x) == Interval(2, 4, 6, 0.9)


def test_scores_in_part_are_bootstrapped_over_examples():
    rng = drawn(9)
    reference = rng.random(200)
    result = ratio(0.9 * reference, reference)
    assert result.middle == pytest.approx(0.9)
    assert result.width < 1e-9
    assert ratio(reference * rng.random(200), reference).width > 0.02


# What is refused

REFUSED = [
    (lambda: wilson(0, 0), "0 successes of 0 trials have no share. Give at least one"),
    (lambda: wilson(4, 3), "4 successes of 3 trials have no share"),
    (lambda: wilson(-1, 3), "successes is -1. Give a whole number of at least 0"),
    (lambda: wilson(1.5, 3), "successes is 1.5. Give a whole number"),
    (lambda: wilson(1, 3, 1.0), "A level of 1.0 has no interval. Give one between 0 and 1"),
    (lambda: mcnemar(1, -2), "only_quantized is -2"),
    (lambda: ratio([], []), "first values have the shape [0]. Pass at least one"),
    (lambda: ratio([[1.0]], [[1.0]]), "first values have the shape [1, 1]"),
    (lambda: ratio([1.0], [math.nan]), "Number 0 of the second values is nan. Leave out values"),
    (lambda: ratio([math.inf, 1.0], [1.0, 1.0]), "Number 0 of the first values is inf"),
    (lambda: ratio(["a"], [1]), "first values are not all numbers"),
    (lambda: mean([1] * 9, level=0), "A level of 0 has no interval"),
    (lambda: ratio([1, 2], [1]), "2 values cannot be paired with 1"),
    (lambda: ratio([1, 0], [0, 0]), "scores 0 on all 2 examples: retention is undefined"),
    (lambda: ratio([1, math.nan], [1, 1]), "Number 1 of the first values is nan"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_has_no_interval_is_refused(call, message):
    with pytest.raises(RequestError, match=re.escape(message)):
        call()


@pytest.mark.parametrize(
    "module", ["core.intervals", "validate.policy.policy", "validate.policy.verdict"]
)
def test_a_verdict_needs_no_torch(module):
    code = f"import sys, salient.{module}; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_quantile_has_the_level_that_it_names():
    """P90 of exponential values, whose true value is ln 10."""
    rng = np.random.default_rng(0)
    for count in (36, 128):
        intervals = [quantile(rng.exponential(size=count), 0.9, count) for _ in range(400)]
        contained = [each.low <= math.log(10) <= each.high for each in intervals]
        assert 0.92 < sum(contained) / len(contained) < 0.99


def test_too_few_trials_bound_no_high_quantile():
    assert quantile(range(35), 0.9, 35).high == math.inf
    assert quantile(range(36), 0.9, 36).high == 35
    assert quantile(range(3600), 0.9, 35).high == math.inf
    assert quantile([1.0], 0.9, 1).ends == [-math.inf, math.inf]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_the_trials_below_a_share_are_the_fewest_that_show_it(share):
    count = trials_below(share)
    assert wilson(0, count).high <= share < wilson(0, count - 1).high
