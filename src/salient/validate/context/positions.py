"""KL at each position of a text, and its growth with position.

A token's KL depends on its text far more than on its position. So growth is measured on the same
tokens twice: as the last quarter of a long window, and as a window of their own, in the first
quarter of the positions. The ratio of the two sums is the effect of position and context; the
difficulty of the text cancels out. No token is skipped: the first ones of a window have no context
and on some models a larger KL, which counts in the first quarter.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from salient.core.intervals import FEWEST, Interval, bootstrap_ratio
from salient.core.metrics import ROWS, LogitsComparison

from .result import KlGrowth, PositionBucket

STRETCH = 128  # neighbouring tokens that are resampled together where windows are too few
NOTHING = 1e-6  # nats a token: rounding in float32 between two equal models


@dataclass(frozen=True)
class TokenFigures:
    """Neighbouring tokens, a number each: float64 [tokens].

    kl: KL(reference || quantized), nats   agreed: 1 where both prefer the same next token
    nll_reference, nll_quantized: negative log-likelihoods of the text's own next token, nats
    """

    kl: np.ndarray
    agreed: np.ndarray
    nll_reference: np.ndarray
    nll_quantized: np.ndarray

    def __len__(self) -> int:
        return len(self.kl)

    def __getitem__(self, places: slice) -> "TokenFigures":
        return TokenFigures(*(column[places] for column in self.columns()))

    @classmethod
    def joined(cls, parts: "Sequence[TokenFigures]") -> "TokenFigures":
        """The tokens of several parts, one after another."""
        columns = zip(*(part.columns() for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    @classmethod
    def from_columns(cls, columns: Sequence[Sequence[float]]) -> "TokenFigures":
        """The inverse of `to_columns`."""
        return cls(*(np.array(column, dtype=np.float64) for column in columns))

    def columns(self) -> tuple[np.ndarray, ...]:
        """The fields in their order."""
        return tuple(vars(self).values())

    def to_columns(self) -> list[list[float]]:
        """The columns as plain numbers of six digits."""
        return [[float(f"{value:.6g}") for value in column] for column in self.columns()]

    def sums(self) -> LogitsComparison:
        """The sums over all tokens."""
        return LogitsComparison(
            tokens=len(self),
            kl_sum=float(self.kl.sum()),
            agreed=int(self.agreed.sum()),
            predicted=len(self),
            nll_reference=float(self.nll_reference.sum()),
            nll_quantized=float(self.nll_quantized.sum()),
        )


def compare_tokens(reference: Tensor, quantized: Tensor, following: Tensor) -> TokenFigures:
    """Two models' logits [tokens, vocab], token by token.

    following: int64 [tokens], the token of the text that comes next after each
    """
    rows = (t.split(ROWS) for t in (reference, quantized, following.to(reference.device)))
    return TokenFigures.joined([_compared(*each) for each in zip(*rows, strict=True)])


def _compared(reference: Tensor, quantized: Tensor, following: Tensor) -> TokenFigures:
    log_r, log_q = reference.float().log_softmax(-1), quantized.float().log_softmax(-1)
    lost = log_r.exp() * (log_r - log_q)
    kl = lost.where(log_r > -torch.inf, 0.0).sum(-1)  # a masked token: 0 log 0 = 0
    agreed = log_r.argmax(-1) == log_q.argmax(-1)
    nlls = [-each.gather(1, following[:, None])[:, 0] for each in (log_r, log_q)]
    return TokenFigures(*(each.double().cpu().numpy() for each in (kl, agreed, *nlls)))


def by_position(windows: Sequence[TokenFigures], buckets: int) -> list[PositionBucket]:
    """Mean KL over equal ranges of positions, each of all windows that reach it."""
    longest = max(map(len, windows))
    ends = np.linspace(0, longest, min(buckets, longest) + 1).round().astype(int)
    return [_bucket(windows, int(first), int(end)) for first, end in pairwise(ends)]


def _bucket(windows: Sequence[TokenFigures], first: int, end: int) -> PositionBucket:
    parts = [window.kl[first:end] for window in windows if len(window) > first]
    sums, sizes = _sums(parts), np.array([len(part) for part in parts], dtype=np.float64)
    interval = _interval(sums, sizes) if len(parts) >= FEWEST else None
    return PositionBucket(first, end - 1, float(sums.sum() / sizes.sum()), len(parts), interval)


def growth(late: Sequence[TokenFigures], early: Sequence[TokenFigures]) -> KlGrowth | None:
    """The ratio of the KL sums of the same tokens, measured `late` and `early`, window by window.

    The interval resamples windows; of fewer than FEWEST, stretches of STRETCH tokens, which show
    only what differs within these windows. None where the early KL is nothing.
    """
    tops, bottoms = _sums([w.kl for w in late]), _sums([w.kl for w in early])
    if bottoms.sum() <= NOTHING * sum(map(len, early)):
        return None
    value, drawn = float(tops.sum() / bottoms.sum()), f"{len(late)} windows"
    if len(late) < FEWEST:
        tops, bottoms = (_sums(list(_stretches(side))) for side in (late, early))
        drawn = f"{len(tops)} stretches of {STRETCH} tokens"
    interval = _interval(tops, bottoms) if len(tops) >= FEWEST else None
    return KlGrowth(value, interval, drawn)


def _stretches(windows: Sequence[TokenFigures]) -> Iterator[np.ndarray]:
    for window in windows:
        yield from np.array_split(window.kl, max(1, len(window) // STRETCH))


def _sums(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([part.sum() for part in parts], dtype=np.float64)


def _interval(tops: np.ndarray, bottoms: np.ndarray) -> Interval:
    interval = bootstrap_ratio(tops, bottoms)
    return replace(interval, low=max(0.0, interval.low))
