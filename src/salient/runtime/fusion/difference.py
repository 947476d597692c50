"""How far apart two computations of the same hidden states are."""

import torch
from torch import Tensor

# Of `differs`. Seen in float32: 1e-7 to 6e-5 where a proposal is right, 6e-3 and more where it is
# wrong (scores 5% too large), 0.05 to 7 without a window or rotary embedding; in bfloat16, which
# rounds at every step, 1e-2 where it is right.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 4e-2}


def max_row_error(output: Tensor, expected: Tensor, base: Tensor | None = None) -> float:
    """The largest difference of a row [rows, width], relative to what `wanted` adds to `given`.

    A few channels of the hidden states of real models are a thousand times larger than what a block
    adds to all others: relative to them every error is small. What the type of `wanted` rounds off
    them is not held against `made`.
    """
    added = expected.float() if base is None else expected.float() - base.float()
    rounding = torch.finfo(expected.dtype).eps * expected.float().abs()
    error = (output.float() - expected.float()).abs().sub_(rounding).clamp_(min=0)
    return float((error.norm(dim=-1) / added.norm(dim=-1)).max())
