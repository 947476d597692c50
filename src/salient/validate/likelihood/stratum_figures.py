"""Figures of a set of positions, with intervals over documents."""

import math
from dataclasses import dataclass

import numpy as np

from salient.core.intervals import (
    Array,
    Clusters,
    Interval,
    bootstrap_ratio,
    cluster_quantile,
    exp,
)
from salient.core.records import Count

from .position_figures import PositionFigures


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval over documents; None: too few documents bound it."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class StratumFigures:
    """A checkpoint against its reference over some positions.

    predicted: positions with a next token   perplexity_ratio: checkpoint / reference
    """

    positions: Count
    predicted: Count
    documents: Count
    kl: Estimate
    kl_median: float
    kl_p99: Estimate
    kl_p999: Estimate
    kl_max: float
    top1: Estimate
    perplexity_reference: float
    perplexity_checkpoint: float
    perplexity_ratio: Estimate


def estimate(interval: Interval) -> Estimate:
    """An interval as a receipt has it."""
    ends = (end if math.isfinite(end) else None for end in interval.ends)
    return Estimate(interval.middle, *ends)


def by_cluster(values: Array, clusters: Clusters) -> Array:
    """The sum of `values` [n] over each of the `clusters` [n] that occur: [clusters]."""
    _, owners = np.unique(clusters, return_inverse=True)
    return np.bincount(owners, weights=values).astype(np.float64)


def stratum_figures(positions: PositionFigures, documents: Clusters) -> StratumFigures:
    """Figures with intervals by the cluster bootstrap over `documents` [positions]."""
    counts = by_cluster(np.ones(len(documents)), documents)
    predicted = positions.predicted
    known = predicted > 0
    ratio = bootstrap_ratio(
        by_cluster(positions.log_ratio, documents), by_cluster(predicted, documents)
    )
    before, after = (
        exp(-float(values[known].mean())) for values in (positions.reference, positions.model)
    )
    top1 = bootstrap_ratio(by_cluster(positions.same, documents), counts)
    return StratumFigures(
        len(documents),
        int(known.sum()),
        len(counts),
        estimate(bootstrap_ratio(by_cluster(positions.kl, documents), counts)),
        float(np.median(positions.kl)),
        estimate(cluster_quantile(positions.kl, documents, 0.99)),
        estimate(cluster_quantile(positions.kl, documents, 0.999)),
        float(positions.kl.max()),
        estimate(Interval(top1.low, top1.middle, min(top1.high, 1.0))),
        before,
        after,
        estimate(ratio.through(exp)),
    )
