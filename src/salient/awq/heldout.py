"""Run the held-out tokens through the blocks, three times: the loss of the checkpoint.

Reference, plain rounding and written checkpoint each have their own hidden states. Every block is
judged on the reference's states; after the last block the logits of all three give KL, top-1
agreement and perplexity of the whole model.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from salient.core.metrics import LogitsComparison, relative_error
from salient.models.block_call import BlockCall, run_block
from salient.models.skeleton import Skeleton

from .results import BlockResult, effective_state, plain_result

JUDGED = 256  # tokens of the first sample that judge a block


@dataclass(frozen=True)
class HeldoutCalls:
    """Arguments of one block: for all held-out samples, and for the first tokens of the first."""

    every: BlockCall
    first: BlockCall


class HeldoutStreams:
    """Hidden states of the held-out tokens `ids` (int64 [samples, tokens]) at the current block.

    reference, plain, written: float32 [samples, tokens, width], on the CPU
    """

    def __init__(self, skeleton: Skeleton, ids: Tensor):
        self._skeleton, self._ids = skeleton, ids
        hidden, every = skeleton.calls(ids)
        first = skeleton.calls(ids[:1, :JUDGED])[1]
        self.calls = [HeldoutCalls(*both) for both in zip(every, first, strict=True)]
        self.reference = self.plain = self.written = hidden.float().cpu()

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Tensor:
        """`hidden` [samples, tokens, width] after block `index`: float32, on the CPU."""
        return run_block(block, hidden, self.calls[index].every).float().cpu()

    def first(self, index: int, hidden: Tensor) -> tuple[Tensor, BlockCall]:
        """The first tokens of `hidden` [samples, tokens, width], and block `index`'s call."""
        return hidden[:1, :JUDGED], self.calls[index].first

    def judge(
        self,
        index: int,
        block: nn.Module,
        result: BlockResult,
        hidden: Tensor,
        expected: Tensor,
        *,
        move_plain: bool,
    ) -> dict[str, float]:
        """The block's relative output error by 'plain' rounding and as written ('awq').

        `hidden` is the reference's input, `expected` its output. Leaves `block` with the written
        weights. `move_plain`: the streams are at this block; that of plain rounding moves on.
        """
        errors = {}
        for kind, version in (("plain", plain_result(result)), ("awq", result)):
            load_weights(block, version)
            out = run_block(block, *self.first(index, hidden)).float().cpu()
            errors[kind] = relative_error(out, expected[:1, :JUDGED])
            if kind == "plain" and move_plain:
                self.plain = self.run(index, block, self.plain)
        return errors

    def measure(self) -> dict[str, LogitsComparison]:
        """KL, top-1 and perplexity of 'plain' rounding and of 'awq', after the last block."""
        totals = {"plain": LogitsComparison(), "awq": LogitsComparison()}
        for row, ids in enumerate(self._ids.split(1)):
            expected = self._answers(ids, self.reference[row])
            for kind, hidden in (("plain", self.plain), ("awq", self.written)):
                answers = self._answers(ids, hidden[row])
                totals[kind].add(self._skeleton.head.compare(expected, answers, ids[0]))
        return totals

    def _answers(self, ids: Tensor, hidden: Tensor) -> Tensor:
        """The answers of one sample from its `hidden` states [tokens, width] after all blocks."""
        return self._skeleton.answers(ids, hidden[None])[0]


def load_weights(block: nn.Module, result: BlockResult) -> None:
    """Load the weights of `result` into `block`."""
    for name, value in effective_state(result).items():
        block.get_parameter(name).data.copy_(value)
