"""Warnings before a run about calibration that is too little for the model."""

import math

from salient.models.skeleton import Skeleton
from salient.models.token_packing import TokenBatch
from salient.models.tracing import numbers, pattern

from .block_statistics import FEWEST_TOKENS

UNEVEN = 4  # routers give some experts a quarter of the average


def token_warnings(batch: TokenBatch, skeleton: Skeleton, quantized: frozenset[str]) -> list[str]:
    """Inputs wider than the calibration has tokens, and experts that too few tokens reach."""
    samples, tokens = len(batch.ids), batch.split()[0].numel()
    dense, expert = ("", 0), ("", 0)
    experts: dict[str, int] = {}
    for index, block in enumerate(skeleton.blocks):
        for name, linear in skeleton.linears(index).items():
            if f"{block}.{name}" not in quantized:
                continue
            wide = (f"{block}.{name}", linear.in_features)
            if numbers(name):
                kind = f"{block}.{pattern(name)}"
                experts[kind] = experts.get(kind, 0) + 1
                expert = max(expert, wide, key=lambda each: each[1])
            else:
                dense = max(dense, wide, key=lambda each: each[1])
    warnings = []
    if tokens < dense[1]:
        warnings.append(
            f"{tokens} calibration tokens are fewer than the {dense[1]} inputs of {dense[0]}: they "
            f"say too little about each. Use --samples {_samples(samples, tokens, dense[1])} or "
            "more, or a longer --sequence-length."
        )
    count, active = max(experts.values(), default=0), skeleton.experts_per_token
    if count and active:
        reached = tokens * active // count
        needed = max(UNEVEN * FEWEST_TOKENS, expert[1])
        if reached < needed:
            few = f", and with fewer than {FEWEST_TOKENS} it borrows the block's"
            warnings.append(
                f"A token passes {active} of {count} experts: an expert gets about {reached} of "
                f"the {tokens} calibration tokens, and reads {expert[1]} inputs"
                f"{few if reached < UNEVEN * FEWEST_TOKENS else ''}. Use --samples "
                f"{_samples(samples, reached, needed)} or more."
            )
    return warnings


def _samples(samples: int, tokens: int, needed: int) -> int:
    """The samples with which `tokens` become `needed`."""
    return math.ceil(samples * needed / max(tokens, 1)) + 1
