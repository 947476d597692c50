"""Intervals over clusters, and the sign-flip test of pairs."""

import math

import numpy as np
import pytest

from salient.core.intervals import cluster_quantile, sign_flip


def test_clusters_of_equal_values_widen_the_interval_of_a_quantile():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=20)
    clusters = np.repeat(np.arange(20), 50)
    together = cluster_quantile(centres[clusters], clusters, 0.5)
    apart = cluster_quantile(centres[clusters], np.arange(1000), 0.5)
    assert together.width > 2 * apart.width
    assert together.low <= together.middle <= together.high


def test_fewer_than_five_clusters_bound_no_quantile():
    interval = cluster_quantile(np.arange(100.0), np.arange(100) % 4, 0.99)
    assert interval.middle == 98
    assert (interval.low, interval.high) == (-math.inf, math.inf)


def test_sign_flip_is_exact_for_few_pairs():
    assert sign_flip([1.0, 2.0, 3.0]) == pytest.approx(2 / 8)
    assert sign_flip([1.0, -1.0]) == 1.0


def test_sign_flip_shows_a_constant_shift_and_no_noise():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=60)
    assert sign_flip(noise - noise.mean()) > 0.9
    assert sign_flip(noise + 2) < 0.001
