"""Whether a model that was counted roughly will do: only what its whole range has in common."""

from collections.abc import Sequence
from typing import Literal

from salient.shapes.model_shape import ModelShape

from .ranking import Candidate
from .requirements import Requirements

Decision = Literal["yes", "no", "unsure"]
TIMED_SPREAD = 1.1  # of a count whose speeds may still meet a requirement


def decide(shape: ModelShape, ranked: Sequence[Candidate], required: Requirements) -> Decision:
    """Whether the first format of a device will do, at both ends of the range of `shape`."""
    best = ranked[0]
    if shape.exact:
        return "yes" if best.good else "no"
    runnable = [one for one in ranked if one.route.pace != "refused"]
    if not any(_taken(one, shape)[0] <= one.budget.available for one in runnable):
        return "no"
    others = [one for one in runnable if one.score > best.score and not one.budget.fits]
    is_open = any(_taken(one, shape)[0] <= one.budget.available for one in others)
    slow = required.timed and shape.spread[1] > TIMED_SPREAD
    fits = _taken(best, shape)[1] <= best.budget.available
    return "yes" if best.good and fits and not is_open and not slow else "unsure"


def _taken(candidate: Candidate, shape: ModelShape) -> tuple[float, float]:
    """The least and the most bytes that it takes on a GPU."""
    weights, cache = candidate.budget.items[0].bytes, candidate.budget.items[-1].bytes
    low, high = shape.spread
    if shape.stored_bytes and candidate.form.ready:  # measured, not counted
        low, high = 1.0, 1.0
    rest = candidate.budget.taken - weights - cache
    least = rest + weights * low + cache * shape.cache_low
    return least, rest + weights * high + cache * shape.cache_high
