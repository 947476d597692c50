"""A pass of a few calibration tokens through the 16-bit model, block by block.

Stored for each block: its scale groups, the mean |x| of every input, and the hidden states that
enter it (bfloat16), from which a panel recomputes the inputs. One block is in memory at a time;
panels of finished blocks work while the pass runs.

With fewer tokens than channels the tokens X are smaller than their Gram matrix G, and give the same
error: tr(E G E^T) = |X E^T|^2.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from salient.core.corpus import BUILTIN
from salient.core.errors import ResourceError, SalientError
from salient.core.evidence import RunEvidence
from salient.core.system import available_memory, release_memory
from salient.core.text_places import locate_texts
from salient.models.block_call import BlockCall, InputRecorder, run_block
from salient.models.calibration_texts import calibration_tokens
from salient.models.proof import ScaleGroup
from salient.models.scale_groups import GroupProver
from salient.models.skeleton import Skeleton
from salient.models.token_packing import TokenBatch
from salient.models.tokens import check_vocabulary, load_tokenizer

from .background import BackgroundWorker, RecentResults
from .linears import block_reader
from .reference_model import ReferenceSource

log = logging.getLogger("salient.serve")
WINDOWS, WINDOW = 8, 128  # 1024 tokens: mean |x| is exact within a few per cent
HIDDEN = torch.bfloat16  # as in a run: half of float32, with its range
CACHED_BLOCKS = 2  # whose inputs stay in memory
ROOM = 2  # of a block's bytes: the block, and what it computes


@dataclass(frozen=True)
class InputStatistics:
    """An input that some linears share. mean_abs: float32 [in], None without tokens"""

    readers: tuple[str, ...]
    group: ScaleGroup
    mean_abs: Tensor | None
    tokens: int


@dataclass(frozen=True)
class BlockInputs:
    """A block. hidden: bfloat16 [windows, tokens, width], the hidden states that enter it"""

    hidden: Tensor
    groups: list[ScaleGroup]
    inputs: list[InputStatistics]


@dataclass
class CalibrationPass:
    """The statistics of `source`. Methods except `start` run in the background thread.

    blocks: the finished blocks   label: the tokens, or the error
    """

    source: ReferenceSource
    evidence: RunEvidence | str
    background: BackgroundWorker
    state: str = "waiting"  # then "measuring", and "ready" or "failed"
    label: str = ""
    total: int = 0
    blocks: list[BlockInputs] = field(default_factory=list)
    calls: list[BlockCall] = field(default_factory=list)
    _recent: RecentResults = field(default_factory=lambda: RecentResults(CACHED_BLOCKS))

    def start(self) -> None:
        if self.state == "waiting":
            self.state = "measuring"
            self._resume(self._measure())

    @property
    def progress(self) -> dict[str, object]:
        done = len(self.blocks)
        return {"state": self.state, "done": done, "total": self.total, "words": self.label}

    @property
    def bytes(self) -> int:
        return sum(block.hidden.numel() * block.hidden.element_size() for block in self.blocks)

    @cached_property
    def reader(self) -> Skeleton:
        """The source, to read single parameters and blocks from."""
        return block_reader(self.source.folder)

    def tokens(self, index: int, first: str) -> Tensor:
        """The input of block `index` whose first reader is `first`: float32 [tokens, in]."""
        return self._recent.get(index, lambda: self._inputs(index))[first]

    def _inputs(self, index: int) -> dict[str, Tensor]:
        inputs = self.blocks[index]
        firsts = [each.readers[0] for each in inputs.inputs if each.tokens]
        block = self.reader.block(index)
        with InputRecorder(block, firsts) as recorder:
            run_block(block, inputs.hidden, self.calls[index])
        return {name: x.float() for name, x in recorder.inputs.items()}

    def _measure(self) -> Iterator[None]:
        """Measure the blocks, with a stop before each."""
        skeleton = self.reader
        self.total = len(skeleton.blocks)
        _check_memory(skeleton)
        ids, label = calibration_windows(self.source.folder, skeleton.vocabulary, self.evidence)
        hidden, self.calls = skeleton.calls(ids)
        prober = GroupProver(skeleton, ids)
        skeleton.forget_outer()
        self.label = label
        for index in range(self.total):
            yield
            block = skeleton.block(index)
            groups = prober.groups(index, block, hidden)
            inputs, out = _input_statistics(block, groups, hidden, self.calls[index])
            del block  # before the next one is read
            self.blocks.append(BlockInputs(hidden.to(HIDDEN), groups, inputs))
            hidden = out
        self.state = "ready"
        release_memory()

    def _resume(self, steps: Iterator[None]) -> None:
        """Queue the next of `steps`; its error ends the pass."""

        def step() -> None:
            try:
                next(steps)
            except StopIteration:
                return
            except Exception as error:
                log.exception("the explorer's pass stopped")
                self.label = "The pass failed; the server's log says why."
                if isinstance(error, SalientError):  # its message, without the path of the model
                    folder = self.source.folder
                    self.label = str(error).replace(str(folder), folder.name)
                self.state = "failed"
            else:
                self._resume(steps)

        self.background.submit(step)


def _check_memory(skeleton: Skeleton) -> None:
    """Raise ResourceError if the largest block in float32 leaves the server too little memory."""
    sizes = [
        sum(p.numel() for p in skeleton.bare(n).parameters()) for n in range(len(skeleton.blocks))
    ]
    needed, free = ROOM * 4 * max(sizes), available_memory()
    if needed > free:
        raise ResourceError(
            f"Measuring takes about {needed / 2**30:.1f} GiB of memory for a block of the 16-bit "
            f"model, and {free / 2**30:.1f} GiB are free. Use a larger machine."
        )


def _input_statistics(
    block: nn.Module, groups: list[ScaleGroup], hidden: Tensor, call: BlockCall
) -> tuple[list[InputStatistics], Tensor]:
    readers = [(names, group) for group in groups for names in group.inputs]
    with InputRecorder(block, [names[0] for names, _ in readers]) as recorder:
        out = run_block(block, hidden, call)
    inputs = []
    for names, group in readers:
        x = recorder.inputs.get(names[0])
        mean = None if x is None or not len(x) else x.float().abs().mean(0)
        inputs.append(InputStatistics(names, group, mean, 0 if x is None else len(x)))
    return inputs, out


def calibration_windows(
    source: Path, vocabulary: int, evidence: RunEvidence | str
) -> tuple[Tensor, str]:
    """A few evenly spread windows of the checkpoint's calibration, or of the built-in corpus.

    Returns ids, int64 [windows, tokens], and which texts they are. Raises SalientError if neither
    can be tokenized.
    """
    tokenizer = load_tokenizer(source)
    batch = None if isinstance(evidence, str) else _run_calibration(tokenizer, evidence)
    label = "of the checkpoint's own calibration texts"
    if batch is None:
        batch = calibration_tokens(BUILTIN, tokenizer, WINDOWS, 4 * WINDOW)
        label = "of the built-in corpus (the checkpoint's own calibration is not available)"
    check_vocabulary(batch.ids, vocabulary, "the calibration texts")
    length = min(WINDOW, batch.ids.shape[1])
    pool = batch.ids[:, : batch.ids.shape[1] // length * length].reshape(-1, length)
    count = min(WINDOWS, len(pool))
    ids = pool[[number * len(pool) // count for number in range(count)]]
    return ids, f"{ids.numel()} tokens {label}"


def _run_calibration(tokenizer: object, evidence: RunEvidence) -> TokenBatch | None:
    """The calibration tokens of the run, None if they are not available."""
    run = evidence.run
    name = locate_texts(run.calibration_texts, run.calibration)
    if name is None:
        return None
    try:
        batch = calibration_tokens(
            name, tokenizer, run.samples, run.sequence_length, mix=run.calibration_mix
        )
    except SalientError:
        return None
    return batch if batch.digest == run.calibration else None
