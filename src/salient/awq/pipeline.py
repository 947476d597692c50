"""The run: block by block from a 16-bit model to codes on disk.

For each block: read it, prove its scale groups, run the calibration tokens through it (statistics),
search, round, judge on held-out tokens, write the piece and then its journal line. The reference's
hidden states go on to the next block, so the statistics of every block are those of the unquantized
model.

A resumed run passes the tokens through the finished blocks again (no search) and ends byte-equal to
an undisturbed one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from salient.core.content_digest import file_digest
from salient.core.errors import ModelError
from salient.core.evidence import BlockEvidence
from salient.core.metrics import LogitsComparison
from salient.core.progress import Progress
from salient.core.quant import quantize
from salient.models.block_call import BlockCall, InputRecorder, run_block
from salient.models.scale_groups import GroupProver
from salient.models.skeleton import Skeleton

from .block import Parameters, quantize_block
from .heldout import HeldoutStreams, load_weights
from .journal import Journal, JournalLine
from .partial_shards import PartialCheckpoint
from .results import (
    BlockResult,
    HeldoutInput,
    OutputTarget,
    block_evidence,
    plain_result,
)
from .source_watch import SourceWatch
from .statistics import BlockStatistics

BATCH_TOKENS = 2048  # tokens that go through a block at once
HIDDEN_DTYPE = torch.bfloat16  # hidden states between blocks: half of float32, with its range


@dataclass(frozen=True)
class QuantizeRun:
    """The state of a run.

    samples, heldout: int64 [samples, tokens]
    target: its `quantized` are full names of linears
    """

    skeleton: Skeleton
    samples: Tensor
    heldout: Tensor
    target: OutputTarget
    pieces: PartialCheckpoint
    journal: Journal
    watch: SourceWatch
    progress: Progress

    def show(self, done: int, action: str, note: str = "") -> None:
        """Report that `done` blocks are finished."""
        self.progress(done, len(self.skeleton.blocks), action, note)

    def finish(self, path: Path, evidence: BlockEvidence | None) -> None:
        """Write the journal line of the finished file `path`, of a block or of other tensors.

        Raises ModelError if the source changed since `watch.begin`.
        """
        tensors = self.watch.end()
        self.journal.append(JournalLine(evidence, {path.name: file_digest(path)}, tensors))

    def local_target(self, index: int) -> OutputTarget:
        """The target with the names that linears have within block `index`."""
        return self.target.within(self.skeleton.blocks[index])


class CalibrationStream:
    """Hidden states of the calibration tokens at the current block, in batches, and their calls."""

    def __init__(self, skeleton: Skeleton, ids: Tensor):
        self._hidden: list[Tensor] = []
        self._calls: list[list[BlockCall]] = []
        self._outputs: dict[int, Tensor] = {}
        for batch in ids.split(max(1, BATCH_TOKENS // ids.shape[1])):
            hidden, calls = skeleton.calls(batch)
            self._hidden.append(hidden.to("cpu", HIDDEN_DTYPE))
            self._calls.append(calls)

    def advance(
        self, index: int, through: Callable[[Tensor, BlockCall], Tensor], *, again: bool = False
    ) -> None:
        """Move every batch over block `index` by `through`(hidden, call).

        If the block runs `again`, its outputs take effect at `leave`.
        """
        outputs = self._outputs if again else self._hidden
        for number, hidden in enumerate(self._hidden):
            out = through(hidden, self._calls[number][index])
            outputs[number] = out.to("cpu", HIDDEN_DTYPE)

    def leave(self) -> None:
        """Move on from the current block."""
        if self._outputs:
            self._hidden = [self._outputs[number] for number in range(len(self._hidden))]
            self._outputs = {}


def quantize_blocks(run: QuantizeRun) -> dict[str, LogitsComparison]:
    """Quantize every block that the journal lacks.

    Returns the held-out measures of 'plain' rounding and of 'awq'.
    """
    calibration = CalibrationStream(run.skeleton, run.samples)
    streams = HeldoutStreams(run.skeleton, run.heldout)
    prober = GroupProver(run.skeleton, run.heldout)
    run.skeleton.forget_outer()
    for index, name in enumerate(run.skeleton.blocks):
        run.watch.begin(run.pieces.source_tensors(index))
        if index < len(run.journal.blocks):
            run.show(index, f"{name}: passing tokens through")
            _pass_through(run, index, calibration, streams, prober)
            run.watch.end(run.journal.lines[index].source_tensors)
        else:
            entry = _quantize_one(run, index, calibration, streams, prober)
            run.finish(run.pieces.path(index), entry)
    run.show(len(run.skeleton.blocks), "measuring on held-out tokens")
    figures = streams.measure()
    run.skeleton.forget_outer()
    return figures


def _quantize_one(
    run: QuantizeRun,
    index: int,
    calibration: CalibrationStream,
    streams: HeldoutStreams,
    prober: GroupProver,
) -> BlockEvidence:
    """Quantize one block and write its shard; returns its evidence."""
    name, target = run.skeleton.blocks[index], run.local_target(index)
    run.show(index, f"{name}: reading, proving")
    block = run.skeleton.block(index, torch.float32)
    groups = prober.groups(index, block, streams.reference)
    if run.skeleton.dtype != torch.float32:
        del block  # read twice rather than store both dtypes
        block = run.skeleton.block(index)
    wanted = [g for g in groups if g.called and target.quantized.intersection(g.readers)]
    stats = BlockStatistics(
        name,
        block,
        wanted,
        lambda through, again: calibration.advance(index, through, again=again),
    )
    heldout, expected = _heldout(index, block, stats.firsts, streams)
    run.show(index, f"{name}: statistics, search")
    parameter = _parameters(run, index, block)
    with run.skeleton.source.reading():
        result = quantize_block(block, parameter, groups, stats.of, heldout, target)
    calibration.leave()
    check_range(name, stats.peak, target.dtype)
    borrowed, peak = stats.borrowed, stats.peak
    del stats, heldout, parameter
    run.show(index, f"{name}: judging")
    errors = streams.judge(index, block, result, expected)
    fell_back = errors["awq"] >= errors["plain"]
    if fell_back:
        result, block = plain_result(result), run.skeleton.block(index)
        load_weights(block, result)
        errors["awq"] = errors["plain"]
    streams.written = streams.run(index, block, streams.written)
    streams.reference = expected
    run.pieces.write_block(index, result)
    run.show(index + 1, name, _note(result, errors))
    return block_evidence(name, result, errors, borrowed, peak=peak, fell_back=fell_back)


def check_range(block: str, peak: float, dtype: torch.dtype) -> None:
    """Raise ModelError if the activations of `block`, up to `peak`, overflow in `dtype`."""
    largest = torch.finfo(dtype).max
    if peak <= largest:
        return
    advice = (
        "Write it with --dtype bfloat16."
        if peak < torch.finfo(torch.bfloat16).max
        else "The model itself is broken there: check that it generates text."
    )
    raise ModelError(
        f"The activations of {block!r} reach {peak:.3g} on the calibration tokens, and "
        f"{str(dtype).removeprefix('torch.')} ends at {largest:.5g}: the checkpoint would answer "
        f"with NaN. {advice}"
    )


def _heldout(
    index: int, block: nn.Module, firsts: list[str], streams: HeldoutStreams
) -> tuple[dict[str, HeldoutInput], Tensor]:
    """Run the held-out tokens through the block: its inputs by their first readers, its output."""
    with InputRecorder(block, firsts) as recorder:
        expected = streams.run(index, block, streams.reference)
    heldout = {}
    for name in firsts:
        weight = block.get_parameter(f"{name}.weight")
        none = weight.new_empty(0, weight.shape[1])  # no held-out token may reach an expert
        heldout[name] = HeldoutInput(recorder.inputs.get(name, none))
    return heldout, expected


def _parameters(run: QuantizeRun, index: int, block: nn.Module) -> Parameters:
    """Reads a parameter of the block in float32, exactly as the source has it."""
    prefix, skeleton = run.skeleton.blocks[index], run.skeleton

    def parameter(name: str) -> Tensor:
        value = block.get_parameter(name)
        if value.dtype == torch.float32:
            return value.detach()
        return skeleton.files.read(f"{prefix}.{name}").to(skeleton.device, torch.float32)

    return parameter


def _pass_through(
    run: QuantizeRun,
    index: int,
    calibration: CalibrationStream,
    streams: HeldoutStreams,
    prober: GroupProver,
) -> None:
    """Move all streams over a finished block."""
    prober.ensure_proposals(index, streams.reference)
    block, target = run.skeleton.block(index), run.local_target(index)
    calibration.advance(index, lambda hidden, call: run_block(block, hidden, call))
    streams.reference = streams.run(index, block, streams.reference)
    parameter = _parameters(run, index, block)
    plain = {
        name: quantize(parameter(f"{name}.weight"), target.scheme, name=name, dtype=target.dtype)
        for name in run.skeleton.linears(index)
        if name in target.quantized and name not in run.journal.blocks[index].left_at_16_bits
    }
    load_weights(block, BlockResult(plain, plain, {}))
    streams.plain = streams.run(index, block, streams.plain)
    run.pieces.read_block(index, block)
    streams.written = streams.run(index, block, streams.written)


def _note(result: BlockResult, errors: dict[str, float]) -> str:
    improved = sum(r.improved for r in result.groups)
    ratio = errors["awq"] / max(errors["plain"], 1e-30)
    return f"{improved}/{len(result.groups)} groups kept, {ratio:.2f} x plain rounding"
