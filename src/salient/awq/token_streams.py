"""The calibration tokens on their way through the blocks: forward, and back with gradients."""

import torch
from torch import Tensor, nn

from salient.models.block_call import BlockCall, run_block
from salient.models.label_gradient import label_gradient
from salient.models.skeleton import Skeleton

from .activation_store import ActivationStore
from .block_statistics import Passes, Through
from .fisher import gradient_weights, run_backward
from .run_state import BATCH_TOKENS, HIDDEN_DTYPE


def batches_of(ids: Tensor, tokens: int = BATCH_TOKENS) -> tuple[Tensor, ...]:
    """`ids` [samples, tokens] in batches of about `tokens`."""
    return ids.split(max(1, tokens // ids.shape[1]))


class TokenStream:
    """The states of tokens `ids` [samples, tokens] between two blocks, in batches.

    states: each [samples, tokens, width] in HIDDEN_DTYPE on the CPU: hidden states, or gradients
    """

    def __init__(self, skeleton: Skeleton, ids: Tensor, batch_tokens: int = BATCH_TOKENS):
        self.skeleton = skeleton
        self.batches = batches_of(ids, batch_tokens)
        self.states: list[Tensor] = []
        self.calls: list[list[BlockCall]] = []
        self._next: dict[int, Tensor] = {}
        for batch in self.batches:
            hidden, calls = skeleton.calls(batch)
            self.states.append(hidden.to("cpu", HIDDEN_DTYPE))
            self.calls.append(calls)

    def step(self, index: int, number: int, through: Through) -> Tensor:
        """Batch `number` through block `index`."""
        return through(self.states[number], self.calls[number][index], None)

    def advance(self, index: int, through: Through, *, again: bool = False) -> None:
        """Move every batch over block `index`.

        If the block runs `again`, its outputs take effect at `leave`.
        """
        states = self._next if again else self.states
        for number in range(len(self.states)):
            states[number] = self.step(index, number, through).to("cpu", HIDDEN_DTYPE)

    def forward(self, index: int, block: nn.Module) -> None:
        """Move every batch over `block`, which is block `index`."""
        self.advance(index, lambda hidden, call, _: run_block(block, hidden, call))

    def passes(self, index: int) -> Passes:
        """Runs every batch through block `index`."""
        return lambda through, again: self.advance(index, through, again=again)

    def leave(self) -> None:
        """Move on from the current block."""
        if self._next:
            self.states = [self._next[number] for number in range(len(self.states))]
            self._next = {}


class GradientStream(TokenStream):
    """Hidden states forward into a store; then, from `turn` on, gradients back.

    Each batch has `draws` gradients, by different labels; `states` has all batches' of one draw
    after those of another.
    """

    def __init__(self, skeleton: Skeleton, ids: Tensor, store: ActivationStore, draws: int = 1):
        super().__init__(skeleton, ids)
        self._store, self._draws, self._turned = store, draws, False

    def record(self, index: int) -> None:
        """Store the states as the inputs of block `index`."""
        for number, state in enumerate(self.states):
            self._store.write(index, number, state)

    def turn(self, seed: int) -> None:
        """Replace the last block's outputs by the end loss's gradients, labels by `seed`."""
        pairs = list(zip(self.batches, self.states, strict=True)) * self._draws
        self.states = [
            label_gradient(self.skeleton, ids, hidden, seed + number).to(HIDDEN_DTYPE)
            for number, (ids, hidden) in enumerate(pairs)
        ]
        self._turned = True

    def token_weights(self) -> Tensor:
        """Each token's by its gradients (`gradient_weights`): float32 [samples, tokens]."""
        weights = torch.cat([gradient_weights(state) for state in self.states])
        return weights.unflatten(0, (self._draws, -1)).mean(0)

    def back(self, index: int, block: nn.Module) -> None:
        """Move every batch's gradient back over `block`, which is block `index`."""

        def through(hidden: Tensor, call: BlockCall, gradient: Tensor | None) -> Tensor:
            assert gradient is not None
            return run_backward(block, hidden, call, gradient, {})[1]

        self.advance(index, through)

    def step(self, index: int, number: int, through: Through) -> Tensor:
        """Batch `number` through block `index`, with its gradient on the way back."""
        if not self._turned:
            return super().step(index, number, through)
        batch = number % len(self.batches)
        hidden = self._store.read(index, batch)
        return through(hidden, self.calls[batch][index], self.states[number])
