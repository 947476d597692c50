"""The statistics of a block's inputs, gathered on demand within a bound of memory.

All inputs that every token reaches are gathered in one pass over the calibration tokens. Experts
are many: where their statistics would exceed GRAM_BYTES, the tokens pass the block once for each
portion of them. An expert that few tokens reach borrows those of the whole block.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from salient.core.errors import ModelError
from salient.models.block_call import BlockCall, InputRecorder, OutputPeak
from salient.models.proof import ScaleGroup
from salient.models.tracing import numbers

from .statistics import ActStats, Gatherer, InputStats, width_of

GRAM_BYTES = 2**30
FEWEST_TOKENS = 64

# Runs every batch of calibration tokens through a function of (hidden states, call, gradient at the
# output or None); `again` says that they may have to pass the block once more.
Through = Callable[[Tensor, BlockCall, Tensor | None], Tensor]
Passes = Callable[[Through, bool], None]


@dataclass
class BlockStatistics:
    """Statistics by the first reader of each input of `groups`, computed on demand.

    name: the block's, for messages
    passes: runs the calibration tokens through the block
    gatherer: what is gathered
    borrowed: expert that borrowed the block's tokens -> the number of its own
    peak: the largest magnitude of any linear's input and output, and of the block's output
    """

    name: str
    block: nn.Module
    groups: list[ScaleGroup]
    passes: Passes
    gatherer: Gatherer
    borrowed: dict[str, int] = field(default_factory=dict)
    peak: float = 0.0
    _stats: dict[str, InputStats] = field(default_factory=dict)
    _samples: dict[str, Tensor] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, tuple[str, ...]]:
        """The first reader of every input -> all its readers."""
        return {names[0]: names for group in self.groups for names in group.inputs}

    @property
    def bases(self) -> dict[str, str]:
        """Expert -> the first reader of the input from which it borrows tokens."""
        bases = {}
        for group in self.groups:
            whole = [names[0] for names in group.inputs if not numbers(names[0])]
            some = [names[0] for names in group.inputs if numbers(names[0])]
            if whole:
                bases |= dict.fromkeys(map(expert_of, some), whole[0])
        return bases

    def of(self, first: str) -> InputStats:
        """The statistics of the input whose first reader is `first`.

        Raises ModelError if it overflows.
        """
        if first not in self._stats:
            self._gather(first)
        return self._stats[first]

    def _gather(self, first: str) -> None:
        """One pass for all inputs that every token reaches, and for those of some experts."""
        inputs = self.inputs
        experts = [name for name in inputs if numbers(name)]

        def size(name: str) -> int:
            return self.gatherer.bytes_of(inputs[name])

        portion, others = portions(experts, first, sum(map(size, inputs)), size)
        whole = [n for n in inputs if n not in experts and n not in self._stats]
        for name in experts:
            self._stats.pop(name, None)
        fresh = {name: self.gatherer.create(inputs[name]) for name in [*whole, *portion]}
        self.passes(
            lambda hidden, call, gradient: self._observe(hidden, call, gradient, fresh), others
        )
        for name, stats in fresh.items():
            self._check(name, stats)
            self.peak = max(self.peak, float(stats.peak))
        self._stats |= fresh
        for expert in dict.fromkeys(map(expert_of, portion)):
            self._borrow(expert, [name for name in portion if expert_of(name) == expert])

    def _observe(
        self,
        hidden: Tensor,
        call: BlockCall,
        gradient: Tensor | None,
        stats: dict[str, InputStats],
    ) -> Tensor:
        bases = set(self.bases.values()) - self._samples.keys()
        with InputRecorder(self.block, list(bases)) as recorder, OutputPeak(self.block) as outputs:
            out, handed_on = self.gatherer.run(hidden, call, gradient, stats)
        self.peak = max(self.peak, outputs.value, float(out.abs().amax()))
        self._samples |= {name: x.clone() for name, x in recorder.inputs.items()}
        return handed_on

    def _borrow(self, expert: str, firsts: list[str]) -> None:
        """Let `expert` use the block's tokens if too few reach it.

        `firsts` are the first readers of its inputs.
        """
        tokens, base = min(self._stats[name].tokens for name in firsts), self.bases.get(expert)
        if tokens >= FEWEST_TOKENS or base is None:
            return
        with InputRecorder(self.block, firsts) as recorder, torch.no_grad():
            self.block.get_submodule(expert)(self._samples[base])
        for name, x in recorder.inputs.items():
            stats = ActStats(width_of(self.block, name), x.device)
            stats.add(x)
            self._check(name, stats)
            self._stats[name] = stats
        self.borrowed[expert] = tokens

    def _check(self, name: str, stats: InputStats) -> None:
        if not stats.finite:
            dtype = next(self.block.parameters()).dtype
            raise ModelError(
                f"The input of '{self.name}.{name}' overflows or is NaN on the calibration tokens, "
                f"computed in {dtype}. The model itself is broken there: check that it generates "
                "text before it is quantized, or fetch it again."
            )


def groups_to_gather(groups: Sequence[ScaleGroup], quantized: frozenset[str]) -> list[ScaleGroup]:
    """The groups that run on text and have a reader in `quantized`."""
    return [group for group in groups if group.called and quantized.intersection(group.readers)]


def portions(
    experts: list[str], first: str, every: int, size: Callable[[str], int]
) -> tuple[list[str], bool]:
    """The experts' inputs to gather with `first`, and whether that leaves others out.

    `every` is the size of all inputs of the block in bytes; `size` gives that of one.
    """
    if every <= GRAM_BYTES:
        return experts, False
    budget = GRAM_BYTES - every + sum(map(size, experts))
    portion: list[str] = []
    for name in experts[experts.index(first) if first in experts else 0 :]:
        budget -= size(name)
        if portion and budget < 0:
            break
        portion.append(name)
    return portion, len(portion) < len(experts)


def expert_of(name: str) -> str:
    """The module that holds a linear of one expert: 'mlp.experts.3' of 'mlp.experts.3.up_proj'."""
    parts = name.split(".")
    number = next(at for at, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: number + 1])
