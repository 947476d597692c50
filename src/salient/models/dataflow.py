"""Who else reads a module's output: followed through one run of the block, step by step."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .block_call import run_block
from .row_matching import BlockProbe

aten = torch.ops.aten
# Operations that hand values on as they are: their outputs are followed too.
COPIES = {
    aten.clone,
    aten._to_copy,
    aten.index,
    aten.index_select,
    aten.repeat,
    aten.gather,
    aten.constant_pad_nd,
}
# Operations that look at a tensor's shape alone.
SHAPES = {aten.zeros_like, aten.empty_like, aten.ones_like, aten.full_like, aten.new_zeros}


class _Followed(TorchDispatchMode):
    """Notes where tensors that share memory with a followed one are read."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, Tensor] = {}  # alive, so that no address is reused
        self.modules: list[str] = []
        self.reads: dict[tuple[str, str], None] = {}

    def follow(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self.storages[value.untyped_storage().data_ptr()] = value

    def _is_followed(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.untyped_storage().data_ptr() in self.storages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        read = any(map(self._is_followed, tree_leaves((args, kwargs))))
        out = func(*args, **(kwargs or {}))
        if not read or func.overloadpacket in SHAPES:
            return out
        if func.overloadpacket in COPIES:
            self.follow(out)
        elif not all(map(self._is_followed, tree_leaves(out))):  # else a view of it
            self.reads[self.modules[-1], func.overloadpacket.__name__] = None
        return out


def other_readers(
    block: nn.Module, absorber: str, readers: tuple[str, ...], probe: BlockProbe
) -> list[str]:
    """Readers of the output of `absorber` other than `readers`, e.g. "'mlp.gate' (mul)"."""
    mode = _Followed()

    def entering(name: str) -> Callable[..., None]:
        return lambda *_: mode.modules.append(name)

    def leaving(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, out: Any) -> None:
            mode.modules.pop()
            if name == absorber:
                mode.follow(out)

        return hook

    with ExitStack() as stack:
        for name, module in block.named_modules():
            stack.callback(module.register_forward_pre_hook(entering(name)).remove)
            stack.callback(module.register_forward_hook(leaving(name)).remove)
        stack.enter_context(mode)
        run_block(block, probe.sequences, probe.sequences_call)
    reads = ((module, operation) for module, operation in mode.reads if module not in readers)
    return [f"{module or 'the block itself'!r} ({operation})" for module, operation in reads]
