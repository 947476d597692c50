"""What a block is called with beside the hidden states, and a block run with it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


@dataclass(frozen=True)
class BlockCall:
    """The arguments that the model hands down to a block: masks, rotary angles, and the like."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def run_block(block: nn.Module, hidden: Tensor, call: BlockCall) -> Tensor:
    """The block's output [samples, tokens, width] for `hidden`, in the block's device and dtype."""
    where = next(block.parameters())

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(where.device, where.dtype if value.is_floating_point() else None)

    with torch.no_grad():
        out = block(moved(hidden), *tree_map(moved, call.args), **tree_map(moved, call.kwargs))
    return out[0] if isinstance(out, tuple) else out
