"""Confidence intervals of measured figures: shares, means and ratios, and a test of pairs.

An interval of level 0.95 contains the true value in 95 of 100 repetitions. For 30 skewed values the
plain bootstrap and the normal formula contain it in about 91; the methods here were chosen by
simulation, which the tests repeat. A heavier tail than an exponential's (a lognormal of sigma 1)
is contained in 93 of 100 at 30 values and 94 at 500.

Imports no torch. All random draws are seeded: the same values give the same interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from .errors import RequestError

FEWEST = 5  # values; fewer say too little about their spread: the interval is unbounded
MANY = 20_000  # values; from here on the normal quantiles do, whatever the skew
CELLS = 2**22  # numbers in one table of resamples

Array = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Clusters = np.ndarray[tuple[int, ...], np.dtype[np.int64]]  # the number of each value's cluster
Values = Sequence[float] | Array


@dataclass(frozen=True)
class Interval:
    """From `low` to `high` around the measured `middle`; `level` is its confidence, 0 to 1."""

    low: float
    middle: float
    high: float
    level: float = 0.95

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def ends(self) -> list[float]:
        """Low and high end, as JSON has them."""
        return [self.low, self.high]

    def through(self, function: Callable[[float], float]) -> "Interval":
        """The interval of an increasing `function` of the measured value."""
        low, high = function(self.low), function(self.high)
        return Interval(low, function(self.middle), high, self.level)


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """The share of successes: Wilson's score interval (1927, JASA 22, 209-212).

    Raises RequestError for counts that are no counts.
    """
    _refuse_counts(successes=successes, trials=trials)
    if trials == 0 or successes > trials:
        raise RequestError(
            f"{successes} successes of {trials} trials have no share. Give at least one trial, and "
            "no more successes than trials."
        )
    low, high = _score(successes, trials, _normal(level))
    return Interval(low, successes / trials, high, level)


def trials_below(share: float, level: float = 0.95) -> int:
    """The trials without a success after which `wilson` ends at `share` or lower."""
    square = _normal(level) ** 2
    return math.ceil(square * (1 - share) / share)


def ratio(a: Values, b: Values, level: float = 0.95) -> Interval:
    """The sum of `a` over the sum of `b`, both [n], measured on the same examples.

    With a quantized model's scores over the reference's it is the retention. Zeros and ones: the
    hybrid score interval of Bonett and Price (2006, Statist. Med. 25, 3039-3047). Others,
    bootstrapped, know only the losses they saw: where losses are rare, take 100 and more.

    Raises RequestError where a value is missing or not finite, and where `b` sums to nothing.
    """
    x, y = _pair(a, b)
    if y.sum() <= 0:
        raise RequestError(
            f"The reference scores {y.sum():g} on all {len(y)} examples: retention is "
            "undefined. Take examples that it can solve."
        )
    binary = np.isin([x, y], [0, 1]).all()
    return _ratio_of_shares(x, y, level) if binary else bootstrap_ratio(x, y, level)


def quantile(values: Values, share: float, trials: int, level: float = 0.95) -> Interval:
    """The quantile at `share` of `values` [n]: between two order statistics, by the binomial.

    trials: independent ones among the values, such as requests whose gaps between tokens depend on
    each other. Where they are too few to bound an end, it is infinite.

    Raises RequestError where a value is missing or not finite.
    """
    ordered = np.sort(_numbers(values, "values"))
    ranks = np.arange(1, trials + 1)
    steps = np.log((trials - ranks + 1) / ranks * share / (1 - share))
    logs = trials * math.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)])
    below = np.cumsum(np.exp(logs))  # P(at most k values are below the quantile), k = 0 ... trials
    tail = (1 - level) / 2
    first = int(np.searchsorted(below, tail, side="right"))  # the rank of the low end, from 1
    last = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    places = (math.ceil(rank / trials * len(ordered)) - 1 for rank in (first, last))
    low, high = (ordered[place] if 0 <= place < len(ordered) else math.inf for place in places)
    return Interval(
        float(low) if first else -math.inf, float(np.quantile(ordered, share)), float(high), level
    )


def mcnemar(only_reference: int, only_quantized: int) -> float:
    """The exact two-sided p-value that both models are as good, from the examples that one alone
    solved: twice the smaller tail of a fair coin.

    McNemar (1947, Psychometrika 12, 153-157), with the binomial instead of chi square.
    """
    _refuse_counts(only_reference=only_reference, only_quantized=only_quantized)
    tosses = only_reference + only_quantized
    whole = math.lgamma(tosses + 1) - tosses * math.log(2)
    tail = math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(tosses - k + 1))
        for k in range(min(only_reference, only_quantized) + 1)
    )
    return min(1.0, 2 * tail)


def bootstrap_ratio(tops: Array, bottoms: Array, level: float = 0.95) -> Interval:
    """sum(tops) / sum(bottoms), both [n]: sums over what depends on each other, such as the tokens
    of a window. With counts as `bottoms` it is a mean."""
    low, high = studentized(tops, bottoms, level=level)
    return Interval(float(low), float(tops.sum() / bottoms.sum()), float(high), level)


def studentized(
    tops: Array, bottoms: Array, *, level: float, resamples: int = 2000, seed: int = 0
) -> tuple[Array, Array]:
    """Low and high end [...] of sum(tops) / sum(bottoms), both [n, ...]: the bootstrap-t.

    Efron and Tibshirani (1993, An Introduction to the Bootstrap, chapter 12), of the residuals
    tops - ratio * bottoms. Trailing axes are separate samples. FEWEST says when there are no ends.
    """
    n, z = len(tops), _normal(level)
    whole = bottoms.sum(0)
    middle = tops.sum(0) / whole
    if n < FEWEST:
        return np.full_like(middle, -np.inf), np.full_like(middle, np.inf)
    errors = tops - middle * bottoms
    spread = np.sqrt((errors**2).sum(0) * n / (n - 1)) / whole
    if n >= MANY:
        return middle - z * spread, middle + z * spread
    drawn = _t_values(errors, resamples, np.random.default_rng(seed))
    below, above = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return middle - above * spread, middle - below * spread


def _t_values(errors: Array, resamples: int, rng: np.random.Generator) -> Array:
    """Mean over its standard error, of each resample of `errors` [n, ...]: [resamples, ...]."""
    n = len(errors)
    flat = errors.reshape(n, -1)
    size = np.sqrt((flat**2).mean(0))
    flat = flat / np.where(size > 0, size, 1.0)
    rows = max(1, CELLS // n)
    scaled: list[Array] = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        places = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(places.ravel(), minlength=count * n).reshape(count, n) / n
        mean = times @ flat
        variance = times @ flat**2 - mean**2
        # A resample that lacks the one far value would seem certain: no smaller than 1/n of all.
        scaled.append(mean * np.sqrt((n - 1) / np.maximum(variance, 1 / n)))
    return np.concatenate(scaled).reshape(-1, *errors.shape[1:])


def _ratio_of_shares(x: Array, y: Array, level: float) -> Interval:
    """Two score intervals whose level is lowered so that their quotient has the requested one."""
    top, bottom, differ = int(x.sum()), int(y.sum()), int((x != y).sum())
    n = (top + bottom + differ) // 2  # examples that at least one of them solved
    joint = math.sqrt((differ + 2) / ((top + 1) * (bottom + 1)))
    apart = sum(math.sqrt((1 - (s + 1) / (n + 2)) / (s + 1)) for s in (top, bottom))
    z = _normal(level) * joint / apart
    (low_top, high_top), (low_bottom, high_bottom) = _score(top, n, z), _score(bottom, n, z)
    return Interval(low_top / high_bottom, top / bottom, high_top / low_bottom, level)


def _score(successes: int, trials: int, z: float) -> tuple[float, float]:
    """The two ends of Wilson's interval for `z` standard errors."""
    centre = successes + z * z / 2
    half = z * math.sqrt(successes * (trials - successes) / trials + z * z / 4)
    low = (centre - half) / (trials + z * z) if successes else 0.0
    high = (centre + half) / (trials + z * z) if successes < trials else 1.0
    return low, high


def _numbers(values: Values, what: str) -> Array:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RequestError(f"The {what} are not all numbers ({error}). Give numbers.") from None
    if array.ndim != 1 or not array.size:
        raise RequestError(
            f"The {what} have the shape {list(array.shape)}. Pass at least one number."
        )
    if not np.isfinite(array).all():
        place = int(np.flatnonzero(~np.isfinite(array))[0])
        raise RequestError(
            f"Number {place} of the {what} is {array[place]}. Leave out values that "
            "could not be measured and report them, or find the cause in the model."
        )
    return array


def _pair(a: Values, b: Values) -> tuple[Array, Array]:
    x, y = _numbers(a, "first values"), _numbers(b, "second values")
    if len(x) != len(y):
        raise RequestError(
            f"{len(x)} values cannot be paired with {len(y)}. Give one of each for each example."
        )
    return x, y


def _refuse_counts(**counts: object) -> None:
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 0:
            raise RequestError(f"{name} is {count!r}. Give a whole number of at least 0.")


def _normal(level: float) -> float:
    """Standard errors on each side that hold `level` of a normal distribution."""
    if not 0 < level < 1:
        raise RequestError(f"A level of {level} has no interval. Give one between 0 and 1: 0.95.")
    return NormalDist().inv_cdf((1 + level) / 2)


def exp(nats: float) -> float:
    """e to that power; infinity where a float has no room."""
    return math.exp(nats) if nats < 709 else math.inf


def cluster_quantile(
    values: Array, clusters: Clusters, share: float, *, resamples: int = 1000, level: float = 0.95
) -> Interval:
    """The quantile at `share` of `values` [n], whose `clusters` [n] (from 0) are resampled whole.

    The percentile bootstrap over clusters (Davison and Hinkley 1997, Bootstrap Methods and their
    Application, section 3.8): the tokens of a document depend on each other. Fewer than FEWEST
    clusters bound nothing. An extreme quantile is known no further than the largest value.
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    names, owners = np.unique(clusters[order], return_inverse=True)
    middle = float(ordered[max(math.ceil(share * len(ordered)), 1) - 1])
    if len(names) < FEWEST:
        return Interval(-math.inf, middle, math.inf, level)
    rng = np.random.default_rng(0)
    drawn: list[float] = []
    for _ in range(resamples):
        times = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        below = np.cumsum(times[owners])
        drawn.append(float(ordered[np.searchsorted(below, share * below[-1])]))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), middle, float(high), level)


def sign_flip(differences: Values, *, draws: int = 9999) -> float:
    """The two-sided p-value that `differences` [n] of pairs are symmetric around 0.

    Fisher's randomization test: each pair may as well be the other way round. Exact up to 12
    pairs, by `draws` seeded draws above.
    """
    values = _numbers(differences, "differences")
    least = abs(float(values.sum())) * (1 - 1e-12)
    if len(values) <= 12:
        flips = (np.arange(1 << len(values))[:, None] >> np.arange(len(values))) & 1
        sums: Array = np.matmul(1 - 2.0 * flips, values)
        return float(np.mean(np.abs(sums) >= least))
    rng, extreme = np.random.default_rng(0), 0
    rows = max(1, CELLS // len(values))
    for start in range(0, draws, rows):
        flips = rng.integers(0, 2, (min(rows, draws - start), len(values)))
        sums = np.matmul(1 - 2.0 * flips, values)
        extreme += int((np.abs(sums) >= least).sum())
    return (extreme + 1) / (draws + 1)
