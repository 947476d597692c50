"""The state of a run that all its passes share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from salient.core.content_digest import file_digest
from salient.core.evidence import BlockEvidence
from salient.core.progress import Progress
from salient.models.skeleton import Skeleton

from .effort import Effort
from .journal import Journal, JournalLine
from .partial_shards import PartialCheckpoint
from .results import OutputTarget
from .source_watch import SourceWatch

BATCH_TOKENS = 2048  # tokens that go through a block at once
HIDDEN_DTYPE = torch.bfloat16  # hidden states between blocks: half of float32, with its range
# Steps of progress of a block with gradients and of its reconstruction: times one without.
BACKWARD_STEPS, LEARNING_STEPS = 4, 6


@dataclass(frozen=True)
class QuantizeRun:
    """The state of a run.

    samples, heldout: int64 [samples, tokens]
    target: its `quantized` are full names of linears
    """

    skeleton: Skeleton
    effort: Effort
    samples: Tensor
    heldout: Tensor
    target: OutputTarget
    pieces: PartialCheckpoint
    journal: Journal
    watch: SourceWatch
    progress: Progress

    @property
    def finished(self) -> dict[str, JournalLine]:
        """The journal's line of each finished block."""
        return {line.evidence.block: line for line in self.journal.lines if line.evidence}

    @property
    def evidence(self) -> list[BlockEvidence]:
        """That of the finished blocks, in their order."""
        lines = (self.finished.get(name) for name in self.skeleton.blocks)
        return [line.evidence for line in lines if line and line.evidence]

    @property
    def done(self) -> int:
        """Steps of progress up to the last finished block."""
        finished, blocks = self.finished.values(), len(self.skeleton.blocks)
        if not self.effort.gradients:
            return len(finished)
        learned = sum(bool(line.evidence and line.evidence.reconstruction) for line in finished)
        return blocks + BACKWARD_STEPS * len(finished) + LEARNING_STEPS * learned

    @property
    def steps(self) -> int:
        """Steps of progress of the whole run."""
        learning = LEARNING_STEPS if self.effort.reconstruction_steps else 0
        more = BACKWARD_STEPS + learning if self.effort.gradients else 0
        return len(self.skeleton.blocks) * (1 + more)

    def show(self, done: int, action: str, note: str = "") -> None:
        """Report that `done` of `steps` are finished."""
        self.progress(done, self.steps, action, note)

    def finish(self, paths: Sequence[Path], evidence: BlockEvidence | None) -> None:
        """Write the journal line of the finished files `paths`, of a block or of other tensors.

        Raises ModelError if the source changed since `watch.begin`.
        """
        tensors = self.watch.end()
        digests = {path.name: file_digest(path) for path in paths}
        self.journal.append(JournalLine(evidence, digests, tensors))

    def local_target(self, index: int) -> OutputTarget:
        """The target with the names that linears have within block `index`."""
        return self.target.within(self.skeleton.blocks[index])
