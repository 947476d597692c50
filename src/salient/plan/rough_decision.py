"""Whether a model that was counted roughly will do: only what its whole range has in common."""

from collections.abc import Sequence
from typing import Literal

from salient.shapes.model_shape import ModelShape

from .count_range import CountRange
from .ranking import Candidate
from .requirements import Requirements

Decision = Literal["yes", "no", "unsure"]
TIMED_SPREAD = 1.1  # of a count whose speeds may still meet a requirement


def decide(shape: ModelShape, ranked: Sequence[Candidate], required: Requirements) -> Decision:
    """Whether the first format of a device will do, at both ends of the range of `shape`."""
    best = ranked[0]
    if shape.exact:
        return "yes" if best.good else "no"
    ends = [(one, *_taken(one, shape)) for one in ranked if one.route.pace != "refused"]
    may_fit = [one for one, least, _ in ends if least <= one.budget.available]
    if not may_fit:
        return "no"
    is_open = any(one.score > best.score and not one.budget.fits for one in may_fit)
    slow = required.timed and shape.spread[1] > TIMED_SPREAD
    fits = best.good and _taken(best, shape)[1] <= best.budget.available
    return "yes" if fits and not is_open and not slow else "unsure"


def _taken(candidate: Candidate, shape: ModelShape) -> tuple[float, float]:
    """The least and the most bytes that it takes on a GPU."""
    measured = shape.stored_bytes is not None and candidate.form.ready
    return CountRange.of(shape).taken(candidate.budget, measured=measured)
