"""Polish a rounded linear: codes and scales in turn, as long as held-out tokens agree.

Each step starts from the best so far and is accepted only if the held-out loss falls; the first
step is the rounding itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.quant import Grid, codes_of, in_groups, round_trip, values_of
from salient.core.scheme import Scheme

from .code_descent import descend
from .end_loss import EndLoss
from .scale_refit import refit_scales

ROUNDS = 2  # of code descent, then scale refit


@dataclass(frozen=True)
class Polished:
    """A rounded weight.

    values: float32 [out, in], on `grid`
    loss: held-out, before and after
    """

    values: Tensor
    grid: Grid
    loss: tuple[float, float]


def polish(
    weight: Tensor,
    adjusted: Tensor,
    grid: Grid,
    loss: EndLoss,
    scheme: Scheme,
    dtype: torch.dtype,
    heldout: Callable[[Tensor], float],
) -> Polished:
    """Polish the codes that `adjusted` [out, in] has on `grid`, against `weight` [out, in].

    `heldout` gives the held-out loss of an error [out, in]; scales are exact in `dtype`.
    """
    values = round_trip(in_groups(adjusted, scheme), grid, scheme).flatten(1)
    first = least = heldout(values - weight)
    for _ in range(ROUNDS):
        tried = descend(weight, values, grid, loss, scheme)
        after = heldout(tried - weight)
        if after < least:
            values, least = tried, after
        refitted = refit_scales(weight, values, grid, loss, scheme, dtype)
        codes = codes_of(in_groups(values, scheme), grid, scheme)
        tried = values_of(codes, refitted).flatten(1)
        after = heldout(tried - weight)
        if after < least:
            values, grid, least = tried, refitted, after
    return Polished(values, grid, (first, least))
