"""KL at each position of a text, and its growth with position.

A token's KL depends on its text far more than on its position. So growth is measured on the same
tokens twice: as the last quarter of a long window, and as a window of their own, in the first
quarter of the positions. The ratio of the two sums is the effect of position and context; the
difficulty of the text cancels out. No token is skipped: the first ones of a window have no context
and on some models a larger KL, which counts in the first quarter.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from salient.core.intervals import FEWEST, Interval, bootstrap_ratio
from salient.core.metrics import ROWS, LogitsComparison

from .result import KlGrowth, PositionBucket

STRETCH = 128  # neighbouring tokens that are resampled together where windows are too few
NOTHING = 1e-6  # nats a token: rounding in float32 between two equal models


# Neighbouring tokens, float64 [4, tokens]: KL(reference || quantized), nats; 1 where both prefer
# the same next token; negative log-likelihood of the text's own next token, nats, by the reference
# and by the quantized model.
TokenFigures = npt.NDArray[np.float64]


def token_sums(figures: TokenFigures) -> LogitsComparison:
    """The sums over all tokens."""
    tokens = figures.shape[1]
    kl, agreed, *nlls = figures.sum(1).tolist()
    return LogitsComparison(tokens, kl, int(agreed), tokens, *nlls)


def compare_tokens(reference: Tensor, quantized: Tensor, following: Tensor) -> TokenFigures:
    """Two models' logits [tokens, vocab], token by token.

    following: int64 [tokens], the token of the text that comes next after each
    """
    rows = (t.split(ROWS) for t in (reference, quantized, following.to(reference.device)))
    return np.concatenate([_compared(*each) for each in zip(*rows, strict=True)], axis=1)


def _compared(reference: Tensor, quantized: Tensor, following: Tensor) -> TokenFigures:
    log_r, log_q = reference.float().log_softmax(-1), quantized.float().log_softmax(-1)
    lost = log_r.exp() * (log_r - log_q)
    kl = lost.where(log_r > -torch.inf, 0.0).sum(-1)  # a masked token: 0 log 0 = 0
    agreed = log_r.argmax(-1) == log_q.argmax(-1)
    nlls = [-each.gather(1, following[:, None])[:, 0] for each in (log_r, log_q)]
    return torch.stack([each.double() for each in (kl, agreed, *nlls)]).cpu().numpy()


def by_position(windows: Sequence[np.ndarray], buckets: int) -> list[PositionBucket]:
    """Mean KL over equal ranges of positions, each of all windows that reach it.

    windows: the KL of each one's tokens
    """
    longest = max(map(len, windows))
    ends = np.linspace(0, longest, min(buckets, longest) + 1).round().astype(int)
    return [_bucket(windows, int(first), int(end)) for first, end in pairwise(ends)]


def _bucket(windows: Sequence[np.ndarray], first: int, end: int) -> PositionBucket:
    parts = [window[first:end] for window in windows if len(window) > first]
    sums, sizes = _sums(parts), np.array([len(part) for part in parts], dtype=np.float64)
    interval = _interval(sums, sizes) if len(parts) >= FEWEST else None
    return PositionBucket(first, end - 1, float(sums.sum() / sizes.sum()), len(parts), interval)


def growth(late: Sequence[np.ndarray], early: Sequence[np.ndarray]) -> KlGrowth | None:
    """The ratio of the sums of the same tokens' KL, measured `late` and `early`, window by window.

    The interval resamples windows; of fewer than FEWEST, stretches of STRETCH tokens, which show
    only what differs within these windows. None where the early KL is nothing.
    """
    tops, bottoms = _sums(late), _sums(early)
    if bottoms.sum() <= NOTHING * sum(map(len, early)):
        return None
    value, drawn = float(tops.sum() / bottoms.sum()), f"{len(late)} windows"
    if len(late) < FEWEST:
        tops, bottoms = (_sums(_stretches(side)) for side in (late, early))
        drawn = f"{len(tops)} stretches of {STRETCH} tokens"
    interval = _interval(tops, bottoms) if len(tops) >= FEWEST else None
    return KlGrowth(value, interval, drawn)


def _stretches(windows: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [s for w in windows for s in np.array_split(w, max(1, len(w) // STRETCH))]


def _sums(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([part.sum() for part in parts], dtype=np.float64)


def _interval(tops: np.ndarray, bottoms: np.ndarray) -> Interval:
    interval = bootstrap_ratio(tops, bottoms)
    return replace(interval, low=max(0.0, interval.low))
