"""Arguments of a decoder block, running it, recording its inputs, and its placeholder."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from salient.core.errors import library_errors


@dataclass(frozen=True)
class BlockCall:
    """The arguments that the model hands down to a block: masks, rotary angles, and the like.

    block: its name and its model's class, for errors
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    block: str = "A block"


def run_block(
    block: nn.Module, hidden: Tensor, call: BlockCall, *, gradients: bool = False
) -> Tensor:
    """The block's output [samples, tokens, width] for `hidden`, in the block's device and dtype.

    With `gradients`, it can be differentiated. Raises ModelError for any error of the block's own
    code, ResourceError if memory runs out.
    """
    where = main_parameter(block)

    def moved(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(where.device, where.dtype if value.is_floating_point() else None)

    with torch.set_grad_enabled(gradients), block_errors(call):
        out = block(moved(hidden), *tree_map(moved, call.args), **tree_map(moved, call.kwargs))
    return out[0] if isinstance(out, tuple) else out


def block_errors(call: BlockCall) -> AbstractContextManager[None]:
    """Names the block of `call` in whatever its code raises."""
    return library_errors(
        f"{call.block} cannot be run on text",
        "Check the values in config.json; if they are right, Salient does not support this model.",
    )


def main_parameter(block: nn.Module) -> nn.Parameter:
    """The largest parameter: its device and dtype are the block's (some small ones are float32)."""
    return max(block.parameters(), key=lambda parameter: parameter.numel())


class StopForward(BaseException):
    """Raised by a stub to stop the forward pass at the first block."""


class ExtraOutput:
    """Placeholder for the outputs of a block other than the hidden states."""


class BlockPlaceholder(nn.Module):
    """Placeholder for a decoder block: records its arguments and returns the hidden states."""

    def __init__(
        self, block: nn.Module, reached: Callable[[int, Tensor, BlockCall], Any], index: int
    ):
        super().__init__()
        self.__dict__.update(wrapped_block=block, reached=reached, index=index)

    def __getattr__(self, name: str) -> Any:
        # Models read e.g. `layer.attention_type`.
        return getattr(self.__dict__["wrapped_block"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        return self.reached(self.index, hidden, BlockCall(args, kwargs))


class InputRecorder:
    """Records the inputs of modules of a block while it runs: [tokens, in], by name."""

    def __init__(self, block: nn.Module, names: list[str]):
        self.inputs: dict[str, Tensor] = {}
        self._block, self._names = block, names

    def _hook(self, name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x, before = args[0].detach().flatten(0, -2), self.inputs.get(name)
            self.inputs[name] = x if before is None else torch.cat([before, x])

        return hook

    def __enter__(self) -> "InputRecorder":
        modules = [(n, self._block.get_submodule(n)) for n in self._names]
        self._handles = [m.register_forward_pre_hook(self._hook(n)) for n, m in modules]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


class OutputPeak:
    """The largest magnitude of any linear's output, while it is open."""

    def __init__(self, block: nn.Module):
        self._linears = [m for m in block.modules() if isinstance(m, nn.Linear)]
        self._peaks: list[Tensor] = []

    @property
    def value(self) -> float:
        """The largest magnitude so far; NaN if an output is."""
        return float(torch.stack(self._peaks).amax()) if self._peaks else 0.0

    def __enter__(self) -> "OutputPeak":
        self._hooks = [linear.register_forward_hook(self._record) for linear in self._linears]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _record(self, _module: nn.Module, _args: Any, out: Any) -> None:
        if isinstance(out, Tensor) and out.numel():  # a router may return several tensors
            low, high = torch.aminmax(out.detach())
            self._peaks.append(torch.maximum(-low, high).float())
