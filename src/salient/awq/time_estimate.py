"""How long a run will take, before it starts: operations, over what this machine does of them.

Passes of tokens are counted in floating point operations. Search, rounding and polish go by
weights, not by tokens: they cost as many operations as were measured (constants below). The rate is
that of a matrix product here and now, so a busy machine counts as a slow one.
"""

import time

import torch
from torch import Tensor

from salient.models.skeleton import Skeleton
from salient.models.tracing import numbers

from .effort import EFFORTS, Effort
from .fisher import OUTPUT_BAND
from .memory_estimate import experts_of
from .reconstruction_pass import BATCH_TOKENS as LEARNED_TOKENS
from .statistics import PANELS

SIDE, TRIAL_SECONDS = 1024, 0.2  # of the products that are timed
# Operations a weight, measured on SmolLM2-135M by two cores with AMX at 16 and 64 x 512 tokens.
SEARCH, ROUNDING = 20_000, 300_000  # scale and grid; two-sided rounding and polish
TRIANGLE = (PANELS + 1) / (2 * PANELS)  # of a Gram matrix, that is summed


def estimate_seconds(skeleton: Skeleton, samples: Tensor) -> dict[str, float]:
    """The seconds of a run over `samples` [samples, tokens], by effort."""
    rate = product_rate(skeleton)
    return {
        name: operations(skeleton, samples.numel(), effort) / rate
        for name, effort in EFFORTS.items()
    }


def operations(skeleton: Skeleton, tokens: int, effort: Effort) -> float:
    """Floating point operations of a run over `tokens`."""
    total = 0.0
    for index in range(len(skeleton.blocks)):
        active, experts = experts_of(skeleton, index)
        for name, linear in skeleton.linears(index).items():
            out, width = linear.out_features, linear.in_features
            passed = tokens * (active / experts if numbers(name) else 1.0)
            product = 2 * out * width
            total += passed * product + SEARCH * out * width
            sums = width**2
            draws = effort.draws(tokens)
            if effort.gradients:
                total += (3 * draws - 1) * passed * product + ROUNDING * out * width
                sums += out * min(out, OUTPUT_BAND)
            total += 2 * draws * passed * sums * TRIANGLE
            if effort.reconstruction_steps:
                total += (3 * effort.reconstruction_steps * LEARNED_TOKENS + 2 * passed) * product
    if effort.gradients:  # the head's logits, and back
        total += 2 * effort.draws(tokens) * tokens * 2 * skeleton.vocabulary * skeleton.width
    return total


def product_rate(skeleton: Skeleton) -> float:
    """Operations a second of matrix products on the skeleton's device, in its dtype."""
    side = torch.randn(SIDE, SIDE, device=skeleton.device).to(skeleton.dtype)
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < TRIAL_SECONDS or count < 2:
        float((side @ side)[0, 0])  # waits for the device
        count += 1
    return 2 * SIDE**3 * count / elapsed
