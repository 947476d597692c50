"""Confidence intervals of measured figures: accuracies, means, differences, ratios, perplexities.

An interval of level 0.95 contains the true value in 95 of 100 repetitions. For 30 skewed values the
plain bootstrap and the normal formula contain it in about 91; the methods here were chosen by
simulation, which the tests repeat. A heavier tail than an exponential's (a lognormal of sigma 1)
is contained in 93 of 100 at 30 values and 94 at 500.

Imports no torch. All random draws are seeded: the same values give the same interval.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .errors import RequestError

FEWEST = 5  # values; fewer say too little about their spread: the interval is unbounded
MANY = 20_000  # values; from here on the normal quantiles do, whatever the skew
CELLS = 2**22  # numbers in one table of resamples

Values = Sequence[float] | np.ndarray
Labels = Sequence[Hashable] | np.ndarray


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


def bootstrap_mean(
    values: Values,
    *,
    clusters: Labels | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of `values` [n]. `clusters` [n] names what depends on each other, such as the window
    of a token: whole clusters are drawn. For a share of successes take `wilson`.

    Raises RequestError where a value is missing or not finite.
    """
    sums, sizes = _clustered([_numbers(values, "values")], clusters)
    low, high = studentized(sums, sizes, level=level, resamples=resamples, seed=seed)
    return Interval(float(low), float(sums.sum() / sizes.sum()), float(high), level)


def paired_difference(
    a: Values,
    b: Values,
    *,
    clusters: Labels | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of a - b, both [n], measured on the same examples.

    0 and 1 without clusters: the adjusted interval of Bonett and Price (2012, J. Educ. Behav.
    Statist. 37, 479-488), which has a width even where nothing differs. Others: `bootstrap_mean`.
    """
    x, y = _pair(a, b)
    if clusters is None and _binary(x, y):
        return _difference_of_shares(x, y, level)
    drawn = {"level": level, "resamples": resamples, "seed": seed}
    return bootstrap_mean(x - y, clusters=clusters, **drawn)


def ratio(
    a: Values,
    b: Values,
    *,
    clusters: Labels | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The sum of `a` over the sum of `b`, both [n], measured on the same examples.

    With a quantized model's scores over the reference's it is the retention. 0 and 1 without
    clusters: the hybrid score interval of Bonett and Price (2006, Statist. Med. 25, 3039-3047).
    Others, bootstrapped, know only the losses they saw: where losses are rare, take 100 and more.
    Raises RequestError where `b` sums to nothing.
    """
    x, y = _pair(a, b)
    if y.sum() <= 0:
        raise RequestError(
            f"The reference scores {y.sum():g} on all {len(y)} examples: retention is "
            "undefined. Take examples that it can solve."
        )
    if clusters is None and _binary(x, y):
        return _ratio_of_shares(x, y, level)
    tops, bottoms = _clustered([x, y], clusters)[:2]
    low, high = studentized(tops, bottoms, level=level, resamples=resamples, seed=seed)
    return Interval(float(low), float(x.sum() / y.sum()), float(high), level)


def perplexity(nll: Values, *, clusters: Labels | None = None, level: float = 0.95) -> Interval:
    """exp of the mean of `nll`: mean negative log-likelihoods [n], nats, of windows of one length.

    It is the interval of the mean, through exp: no second approximation.
    """
    return bootstrap_mean(nll, clusters=clusters, level=level).through(exp)


def perplexity_increase(
    quantized: Values,
    reference: Values,
    *,
    clusters: Labels | None = None,
    level: float = 0.95,
) -> Interval:
    """Perplexity of the quantized model over the reference's, - 1: 0.065 is 6.5 % more.

    Both are negative log-likelihoods [n], nats, of the same windows. What makes a window hard is
    in both and falls out, so it is far surer than two perplexities compared.
    """
    paired = paired_difference(quantized, reference, clusters=clusters, level=level)
    return paired.through(lambda nats: exp(nats) - 1)


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


def studentized(
    tops: np.ndarray, bottoms: np.ndarray, *, level: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high end [...] of sum(tops) / sum(bottoms), both [n, ...]: the bootstrap-t.

    Efron and Tibshirani (1993, An Introduction to the Bootstrap, chapter 12), of the residuals
    tops - ratio * bottoms. Trailing axes are separate samples. FEWEST says when there are no ends.
    """
    n, z = len(tops), _normal(level)
    if resamples < 100:
        raise RequestError(f"{resamples} resamples are too few for quantiles. Give at least 100.")
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


def _t_values(errors: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Mean over its standard error, of each resample of `errors` [n, ...]: [resamples, ...]."""
    n = len(errors)
    flat = errors.reshape(n, -1)
    size = np.sqrt((flat**2).mean(0))
    flat = flat / np.where(size > 0, size, 1.0)
    rows = max(1, CELLS // n)
    scaled = []
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        places = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        times = np.bincount(places.ravel(), minlength=count * n).reshape(count, n) / n
        mean = times @ flat
        variance = times @ flat**2 - mean**2
        # A resample that lacks the one far value would seem certain: no smaller than 1/n of all.
        scaled.append(mean * np.sqrt((n - 1) / np.maximum(variance, 1 / n)))
    return np.concatenate(scaled).reshape(-1, *errors.shape[1:])


def _difference_of_shares(x: np.ndarray, y: np.ndarray, level: float) -> Interval:
    n = len(x)
    only_x, only_y = (x > y).sum(), (y > x).sum()
    p, q = (only_x + 1) / (n + 2), (only_y + 1) / (n + 2)
    wide = _normal(level) * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    low, high = max(-1.0, p - q - wide), min(1.0, p - q + wide)
    return Interval(float(low), float((only_x - only_y) / n), float(high), level)


def _ratio_of_shares(x: np.ndarray, y: np.ndarray, level: float) -> Interval:
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


def _clustered(columns: list[np.ndarray], clusters: Labels | None) -> tuple[np.ndarray, ...]:
    """Each column's sums over the clusters, and the clusters' sizes."""
    n = len(columns[0])
    if clusters is None:
        return *columns, np.ones(n)
    if len(clusters) != n:
        raise RequestError(f"{len(clusters)} clusters for {n} values. Give one label a value.")
    number = {label: i for i, label in enumerate(dict.fromkeys(clusters))}
    places = np.array([number[label] for label in clusters])
    return *(np.bincount(places, column) for column in columns), np.bincount(places) * 1.0


def _numbers(values: Values, what: str) -> np.ndarray:
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


def _pair(a: Values, b: Values) -> tuple[np.ndarray, np.ndarray]:
    x, y = _numbers(a, "first values"), _numbers(b, "second values")
    if len(x) != len(y):
        raise RequestError(
            f"{len(x)} values cannot be paired with {len(y)}. Give one of each for each example."
        )
    return x, y


def _binary(*columns: np.ndarray) -> bool:
    return all(bool(((column == 0) | (column == 1)).all()) for column in columns)


def _refuse_counts(**counts: int) -> None:
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
