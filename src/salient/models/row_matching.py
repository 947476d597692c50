"""Match the output rows of a linear to the input channels of another by running the block.

Rows are doubled in patterns, one pattern a bit of the row's number, and the channels that double
give the number. That finds v -> o under grouped-query attention (several channels name one row: the
scale is tied), fused qkv and gate_up (a slice of the rows), up -> down, and fc1 -> fc2 through a
ReLU. One token a sequence makes attention pass its values through, so that queries and keys do not
disturb the answer.
"""

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .block_call import BlockCall, run_block

SAME = 1e-4  # a channel's relative change that float32 rounding explains


@dataclass(frozen=True)
class BlockProbe:
    """Real hidden states of a block's input to watch and prove with, and the calls that fit them.

    sequences: [samples, tokens, width], for watching and proving
    tokens: [samples, 1, width], for proposing
    """

    sequences: Tensor
    sequences_call: BlockCall
    tokens: Tensor
    tokens_call: BlockCall


def feeding_rows(block: nn.Module, absorber: str, reader: str, probe: BlockProbe) -> Tensor | None:
    """Which output row of the linear `absorber` feeds each input channel of `reader`.

    Returns int64 [in], or None where some channel is not proportional to one row, or `reader` does
    not run on single tokens. A channel that a row changes non-linearly (a gate) is distinguished
    from one that it doubles or leaves unchanged: for each bit both halves of the rows are doubled
    in turn, so that the other half decides where one is non-linear.
    """
    weight = block.get_parameter(f"{absorber}.weight")
    number = torch.arange(weight.shape[0], device=weight.device)
    x = _input_of(block, reader, probe)
    if x is None:
        return None
    doubled = _Ratios(x, _input_of(block, reader, probe, absorber, torch.full_like(number, 2)))
    dead = (x == 0).all(0)
    if bool((doubled.still & ~dead).any()):
        return None
    rows = torch.zeros(x.shape[-1], dtype=torch.int64, device=x.device)
    for bit in range(max(1, (len(number) - 1).bit_length())):
        ones = (number >> bit) & 1
        upper = _Ratios(x, _input_of(block, reader, probe, absorber, 1 + ones))
        lower = _Ratios(x, _input_of(block, reader, probe, absorber, 2 - ones))
        set_, clear = upper.doubled | lower.still, lower.doubled | upper.still
        if not bool((set_ ^ clear | dead).all()):
            return None
        rows |= set_.long() << bit
    return _with_dead_channels(rows, dead, len(number))


def _with_dead_channels(rows: Tensor, dead: Tensor, count: int) -> Tensor | None:
    """`rows` with the channels that no token woke (behind a ReLU) filled in.

    That needs the others to be a plain slice of the rows; None if they are not.
    """
    if bool(dead.any()):
        channel = torch.arange(len(rows), device=rows.device)
        shift = (rows - channel)[~dead]
        if not len(shift) or bool((shift != shift[0]).any()):
            return None
        rows = channel + shift[0]
    return rows if bool(((rows >= 0) & (rows < count)).all()) else None


class _Caught(BaseException):
    """Stops a run of the block when the input that it was run for is there."""


class _Ratios:
    """Which channels of `after` [tokens, in] equal those of `before` or twice them, every token.

    None do where other tokens came (a router was disturbed).
    """

    def __init__(self, before: Tensor, after: Tensor | None):
        if after is None or after.shape != before.shape:
            after = torch.full_like(before, torch.nan)
        size = before.abs().amax(0) + 1e-30
        self.still = ((after - before).abs().amax(0) / size) < SAME
        self.doubled = ((after - 2 * before).abs().amax(0) / size) < SAME


def _input_of(
    block: nn.Module,
    reader: str,
    probe: BlockProbe,
    scaled: str | None = None,
    factors: Tensor | None = None,
) -> Tensor | None:
    """The input [tokens, in] of `reader`, with the outputs of `scaled` times `factors` [out].

    None if it does not run on these tokens.
    """
    caught: list[Tensor] = []

    def catch(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        caught.append(args[0].detach())
        raise _Caught

    hooks = [block.get_submodule(reader).register_forward_pre_hook(catch)]
    if scaled is not None and factors is not None:
        hooks.append(
            block.get_submodule(scaled).register_forward_hook(
                lambda _, args, out, f=factors: f * out
            )
        )
    try:
        with suppress(_Caught):
            run_block(block, probe.tokens, probe.tokens_call)
    finally:
        for hook in hooks:
            hook.remove()
    return caught[0].flatten(0, -2) if caught else None
