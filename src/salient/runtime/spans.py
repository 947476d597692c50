"""What is asked about given tokens: how likely each is after those before it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.errors import ModelError

from .sampler import NO_NUMBERS

LOGIT_ROWS = 64  # rows of logits that are there at once: a row has the whole vocabulary

# Log-probability in nats, and whether no token is likelier.
Logprob = tuple[float, bool]


@dataclass(frozen=True)
class TokenSpan:
    """Tokens that one sequence goes on with.

    ids: go to `slot` from position `start` on
    asked: (i, token): how likely is `token` right after ids[i]; in order of i
    """

    slot: int
    start: int
    ids: list[int]
    targets: list[tuple[int, int]]


def logprobs_of(
    logits_of: Callable[[Tensor], Tensor], targets: Sequence[tuple[int, int]], device: torch.device
) -> list[Logprob]:
    """The log-probability of each (row, token), from float32 logits.

    logits_of: logits float32 [rows, vocab] of some rows int64 [rows]; called for a few at a time

    Raises ModelError where logits are not numbers.
    """
    if not targets:
        return []
    pairs = torch.tensor(targets, device=device)
    rows, places = pairs[:, 0].unique(return_inverse=True)
    results = torch.empty(2, len(targets), device=device)
    for start in range(0, len(rows), LOGIT_ROWS):
        logits = logits_of(rows[start : start + LOGIT_ROWS])
        here = (places >= start) & (places < start + LOGIT_ROWS)
        own = places[here] - start
        chosen, totals = logits[own, pairs[here, 1]], logits.logsumexp(-1)
        if not totals.isfinite().all():
            raise ModelError(NO_NUMBERS)
        results[0, here] = chosen - totals[own]
        results[1, here] = (chosen == logits.amax(-1)[own]).float()
    logprobs, likeliest = results.tolist()
    return [(value, flag == 1.0) for value, flag in zip(logprobs, likeliest, strict=True)]
