"""When the requests of a step are sent."""

import random
from collections.abc import Iterator

from .plans import Step


def arrivals(step: Step, seed: int) -> Iterator[float]:
    """Seconds after the step's start at which each request is due, without end.

    Without a rate all are due at once. Gaps of a Poisson process are exponential, with the mean
    1 / rate; the first request comes at 0.
    """
    chance, at = random.Random(seed), 0.0
    while True:
        yield at
        if step.rate is not None:
            even = step.arrivals == "constant"
            at += 1 / step.rate if even else chance.expovariate(step.rate)
