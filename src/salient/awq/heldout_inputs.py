"""A block's inputs on the held-out tokens, which decide between the versions of a linear."""

import torch
from torch import Tensor, nn

from salient.models.block_call import BlockCall, InputRecorder, run_block

from .fisher import run_backward
from .results import HeldoutInput


def heldout_inputs(
    block: nn.Module,
    inputs: dict[str, tuple[str, ...]],
    hidden: Tensor,
    call: BlockCall,
    gradient: Tensor | None,
) -> tuple[dict[str, HeldoutInput], Tensor, Tensor | None]:
    """The inputs by their first readers, the block's output, and the gradient at its input.

    inputs: first reader of each input -> those of its readers that are quantized
    gradient: the end loss's at the output [samples, tokens, width]; None without gradients
    """
    backward: dict[str, Tensor] = {}

    def observe(name: str, d: Tensor) -> None:
        # A module that runs several times is observed in reverse order.
        backward[name] = torch.cat([d, backward[name]]) if name in backward else d

    with InputRecorder(block, list(inputs)) as recorder:
        if gradient is None:
            out, handed_on = run_block(block, hidden, call), None
        else:
            observers = {
                name: lambda _, d, name=name: observe(name, d)
                for names in inputs.values()
                for name in names
            }
            out, handed_on = run_backward(block, hidden, call, gradient, observers)
            handed_on = handed_on.float().cpu()
    result = {}
    for first, names in inputs.items():
        weight = block.get_parameter(f"{first}.weight")
        # No held-out token may reach an expert.
        x = recorder.inputs.get(first, weight.new_empty(0, weight.shape[1]))
        own = {n: backward[n] for n in names if n in backward and len(backward[n]) == len(x)}
        result[first] = HeldoutInput(x, own)
    return result, out.float().cpu(), handed_on
