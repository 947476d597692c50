"""One pass of a few calibration tokens through the 16-bit model, block by block.

Kept of each block are its scale groups, the mean |x| of every input, and the hidden states that go
into it (bfloat16), from which its inputs are made again when somebody looks at them. Blocks are
read one at a time, and looking at finished ones goes on meanwhile.

With fewer tokens than channels the tokens X are smaller than their Gram matrix G, and give the same
error: tr(E G E^T) = |X E^T|^2.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import ResourceError, SalientError
from salient.core.evidence import RunEvidence
from salient.core.system import available_memory, release_memory
from salient.formats.checkpoint import open_checkpoint
from salient.models.block_call import BlockCall, InputRecorder, run_block
from salient.models.proof import ScaleGroup
from salient.models.scale_groups import GroupProver
from salient.models.skeleton import Skeleton

from .background import BackgroundWorker, RecentResults
from .calibration_tokens import find_tokens
from .reference_model import ReferenceSource

log = logging.getLogger("salient.serve")
HIDDEN = torch.bfloat16  # as in a run: half of float32, with its range
BLOCKS_KEPT = 2  # whose inputs stay in memory
ROOM = 2  # of a block's bytes: the block, and what it computes


@dataclass(frozen=True)
class InputStatistics:
    """What some linears read. mean_abs: float32 [in], None if no token came   tokens: how many"""

    readers: tuple[str, ...]
    group: ScaleGroup
    mean_abs: Tensor | None
    tokens: int


@dataclass(frozen=True)
class BlockInputs:
    """A block. hidden: bfloat16 [windows, tokens, width], what goes into it"""

    hidden: Tensor
    groups: list[ScaleGroup]
    inputs: list[InputStatistics]


@dataclass
class _PassState:
    """What is under way: the hidden states at the next block, and how to go on."""

    skeleton: Skeleton
    calls: list[BlockCall]
    prober: GroupProver
    hidden: Tensor


@dataclass
class CalibrationPass:
    """The statistics of `source`. Everything but `begin` and `state` happens at the desk.

    seen: the blocks passed so far   words: on what tokens, or what went wrong
    """

    source: ReferenceSource
    evidence: RunEvidence | str
    desk: BackgroundWorker
    state: str = "waiting"  # then "measuring", and "ready" or "failed"
    words: str = ""
    total: int = 0
    seen: list[BlockInputs] = field(default_factory=list)
    calls: list[BlockCall] = field(default_factory=list)
    _recent: RecentResults = field(default_factory=lambda: RecentResults(BLOCKS_KEPT))
    _reader: Skeleton | None = None

    def begin(self) -> None:
        """Start the pass, if nobody has."""
        if self.state == "waiting":
            self.state = "measuring"
            self._later(self._start)

    @property
    def progress(self) -> dict[str, Any]:
        """How far the pass is, as plain data."""
        return {
            "state": self.state,
            "done": len(self.seen),
            "total": self.total,
            "words": self.words,
        }

    @property
    def bytes(self) -> int:
        """Bytes of the hidden states that are kept."""
        return sum(s.hidden.numel() * s.hidden.element_size() for s in self.seen)

    @property
    def reader(self) -> Skeleton:
        """The source, to read single parameters and blocks from."""
        if self._reader is None:
            source = open_checkpoint(self.source.folder)
            self._reader = Skeleton(source, torch.float32, torch.device("cpu"))
        return self._reader

    def tokens(self, index: int, first: str) -> Tensor:
        """The input of block `index` whose first reader is `first`: float32 [tokens, in]."""
        return self._recent.get(index, lambda: self._inputs(index))[first]

    def _inputs(self, index: int) -> dict[str, Tensor]:
        seen = self.seen[index]
        firsts = [each.readers[0] for each in seen.inputs if each.tokens]
        block = self.reader.block(index)
        with InputRecorder(block, firsts) as recorder:
            run_block(block, seen.hidden, self.calls[index])
        return {name: x.float() for name, x in recorder.inputs.items()}

    def _start(self) -> None:
        skeleton = self.reader
        self.total = len(skeleton.blocks)
        _check_memory(skeleton)
        measured = find_tokens(self.source.folder, skeleton.vocabulary, self.evidence)
        hidden, self.calls = skeleton.calls(measured.ids)
        prober = GroupProver(skeleton, measured.ids)
        skeleton.forget_outer()
        self.words = measured.words
        way = _PassState(skeleton, self.calls, prober, hidden)
        self._later(lambda: self._step(way))

    def _step(self, way: _PassState) -> None:
        self.seen.append(_see(way, len(self.seen)))
        if len(self.seen) < self.total:
            self._later(lambda: self._step(way))
        else:
            self.state = "ready"
            release_memory()

    def _later(self, work: Callable[[], None]) -> None:
        """Do `work` when its turn comes; what goes wrong is said in words, ours if it is ours."""

        def safely() -> None:
            try:
                work()
            except Exception as error:
                log.exception("the explorer's pass stopped")
                self.words = _words_of(error, self.source.folder)
                self.state = "failed"

        self.desk.later(safely)


def _words_of(error: Exception, folder: Path) -> str:
    """What to show of an error: words of ours, without where the model lies on this machine."""
    if not isinstance(error, SalientError):
        return "The pass failed; the server's log says why."
    return str(error).replace(str(folder), folder.name)


def _check_memory(skeleton: Skeleton) -> None:
    """Raise ResourceError where the largest block in float32 would leave the server too little."""
    sizes = [
        sum(p.numel() for p in skeleton.bare(n).parameters()) for n in range(len(skeleton.blocks))
    ]
    needed, free = ROOM * 4 * max(sizes), available_memory()
    if needed > free:
        raise ResourceError(
            f"Measuring takes about {needed / 2**30:.1f} GiB of memory for a block of the 16-bit "
            f"model, and {free / 2**30:.1f} GiB are free. Look at it on a larger machine."
        )


def _see(way: _PassState, index: int) -> BlockInputs:
    """Look at block `index`, and move on behind it."""
    block = way.skeleton.block(index)
    groups = way.prober.groups(index, block, way.hidden)
    firsts = [(names, group) for group in groups for names in group.inputs]
    with InputRecorder(block, [names[0] for names, _ in firsts]) as recorder:
        out = run_block(block, way.hidden, way.calls[index])
    inputs = []
    for names, group in firsts:
        x = recorder.inputs.get(names[0])
        mean = None if x is None or not len(x) else x.float().abs().mean(0)
        inputs.append(InputStatistics(names, group, mean, 0 if x is None else len(x)))
    hidden, way.hidden = way.hidden.to(HIDDEN), out
    return BlockInputs(hidden, groups, inputs)
