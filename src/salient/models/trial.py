"""A trial of a model before a run: a few tokens through the first block of each kind, and the head.

It finds what no header shows: a config.json whose values Transformers accepts but cannot run with,
and blocks that need more from each other than hidden states.
"""

import torch
from torch import Tensor

from salient.core.errors import ModelError

from .block_call import run_block
from .scale_groups import shape_of
from .skeleton import Skeleton

TOKENS = 16


def try_model(skeleton: Skeleton, ids: Tensor) -> None:
    """Run the first tokens of `ids` [samples, tokens] through a block of each kind and the head.

    Raises ModelError naming the block that cannot be run.
    """
    ids = ids[:1, :TOKENS]
    hidden, calls = skeleton.calls(ids)
    out, kinds = hidden, set[str]()
    for index, name in enumerate(skeleton.blocks):
        kind = shape_of(skeleton.bare(index))
        if kind in kinds:
            continue
        kinds.add(kind)
        block = skeleton.block(index)
        out = run_block(block, hidden, calls[index])
        if out.shape != hidden.shape:
            raise ModelError(
                f"{name!r} turns hidden states {list(hidden.shape)} into {list(out.shape)}: "
                f"{type(skeleton.model).__name__} cannot be run block by block."
            )
        _check_numbers(skeleton, name, out)
    _check_numbers(skeleton, "the head", skeleton.answers(ids, out))
    skeleton.forget_outer()


def _check_numbers(skeleton: Skeleton, part: str, out: Tensor) -> None:
    if not bool(torch.isfinite(out).all()):
        raise ModelError(
            f"{part!r} of {type(skeleton.model).__name__} gives NaN or infinite values on the "
            f"first calibration tokens, computed in {skeleton.dtype}. Check that the model "
            "generates text before it is quantized, and the values in config.json."
        )
