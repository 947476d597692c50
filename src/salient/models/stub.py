"""What stands in the skeleton where a block stood, while the blocks are elsewhere."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .block_call import BlockCall


class StopForward(Exception):
    """Raised by a stub to stop the forward pass at the first block."""


class ExtraOutput:
    """Stands for what a block returns beside the hidden states."""


class BlockPlaceholder(nn.Module):
    """Stands where a block stood: notes its call and hands the hidden states on."""

    def __init__(
        self, block: nn.Module, reached: Callable[[int, Tensor, BlockCall], Any], index: int
    ):
        super().__init__()
        self.__dict__.update(stood_for=block, reached=reached, index=index)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["stood_for"], name)  # models read e.g. `layer.attention_type`

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        return self.reached(self.index, hidden, BlockCall(args, kwargs))
