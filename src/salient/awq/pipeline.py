"""The run: block by block from a 16-bit model to codes on disk. Reads top to bottom.

For each block: read it, prove its scale groups, run the calibration tokens through it (statistics),
search, round, judge on held-out tokens, write the piece and then its journal line. The reference's
hidden states go on to the next block, so the statistics of every block are those of the unquantized
model.

A resumed run passes the tokens through the finished blocks again (no search) and ends byte-equal to
an undisturbed one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from salient.core.errors import ModelError
from salient.core.quant import quantize
from salient.evals.likelihood import Comparison
from salient.models.call import Call, run_block
from salient.models.feeding import Probe
from salient.models.groups import ScaleGroup, find_groups
from salient.models.skeleton import Skeleton

from .block import BlockResult, Heldout, Target, Weights, plain_result, quantize_block
from .heldout import HeldoutStreams, give_weights
from .journal import Journal
from .pieces import Pieces
from .stats import ActStats, Recorder, observe

BATCH_TOKENS = 2048  # tokens that go through a block at once
PROBE = (2, 16)  # samples, tokens to watch and prove with
HIDDEN_DTYPE = torch.bfloat16  # hidden states between blocks: half of float32, with its range

# Finished blocks, what is being done, a word about the last block.
Progress = Callable[[int, str, str], None]


@dataclass(frozen=True)
class Run:
    """Everything a run is made of.

    samples, heldout: int64 [samples, tokens]
    target: its `quantized` are full names of linears
    """

    skeleton: Skeleton
    samples: Tensor
    heldout: Tensor
    target: Target
    pieces: Pieces
    journal: Journal
    progress: Progress

    def local_target(self, index: int) -> Target:
        """The target with the names that linears have within block `index`."""
        prefix = f"{self.skeleton.blocks[index]}."
        names = [n.removeprefix(prefix) for n in self.target.quantized if n.startswith(prefix)]
        return Target(self.target.scheme, self.target.dtype, frozenset(names))


class CalibrationStream:
    """Hidden states of the calibration tokens at the current block, in batches, and their calls."""

    def __init__(self, skeleton: Skeleton, ids: Tensor):
        self._hidden: list[Tensor] = []
        self._calls: list[list[Call]] = []
        for batch in ids.split(max(1, BATCH_TOKENS // ids.shape[1])):
            hidden, calls = skeleton.calls(batch)
            self._hidden.append(hidden.to("cpu", HIDDEN_DTYPE))
            self._calls.append(calls)

    def advance(self, index: int, through: Callable[[Tensor, Call], Tensor]) -> None:
        """Move every batch over block `index` by `through`(hidden, call)."""
        for number, hidden in enumerate(self._hidden):
            out = through(hidden, self._calls[number][index])
            self._hidden[number] = out.to("cpu", HIDDEN_DTYPE)


class Prober:
    """Proves the scale groups of each block on a few held-out tokens."""

    def __init__(self, skeleton: Skeleton, ids: Tensor):
        samples, tokens = PROBE
        self._skeleton = skeleton
        self._sequences = skeleton.calls(ids[:samples, :tokens])[1]
        self._tokens = skeleton.calls(ids[0, :tokens, None])[1]
        self._seen: dict[str, list[ScaleGroup]] = {}

    def groups(self, index: int, block: nn.Module, hidden: Tensor) -> list[ScaleGroup]:
        """The groups of block `index`, proven in float32; blocks of one shape share proposals."""
        if next(block.parameters()).dtype != torch.float32:
            block = self._skeleton.block(index, torch.float32)
        samples, tokens = PROBE
        sequences, single = hidden[:samples, :tokens], hidden[0, :tokens, None]
        probe = Probe(sequences, self._sequences[index], single, self._tokens[index])
        shape = repr([(name, tuple(p.shape)) for name, p in block.named_parameters()])
        self._seen[shape] = find_groups(block, probe, self._seen.get(shape))
        return self._seen[shape]


def quantize_blocks(run: Run) -> dict[str, Comparison]:
    """Quantize every block that the journal lacks.

    Returns the held-out measures of 'plain' rounding and of 'awq'.
    """
    calibration = CalibrationStream(run.skeleton, run.samples)
    streams = HeldoutStreams(run.skeleton, run.heldout)
    prober = Prober(run.skeleton, run.heldout)
    run.skeleton.forget_outer()
    for index, name in enumerate(run.skeleton.blocks):
        if index < len(run.journal.done):
            run.progress(index, f"{name}: passing tokens through", "")
            _pass_through(run, index, calibration, streams)
        else:
            entry = _quantize_one(run, index, calibration, streams, prober)
            run.journal.finish_block(entry)
    run.progress(len(run.skeleton.blocks), "measuring on held-out tokens", "")
    found = streams.measure()
    run.skeleton.forget_outer()
    return found


def _quantize_one(
    run: Run, index: int, calibration: CalibrationStream, streams: HeldoutStreams, prober: Prober
) -> dict[str, Any]:
    """One block from its weights to its piece on disk; returns its journal line."""
    name, target = run.skeleton.blocks[index], run.local_target(index)
    run.progress(index, f"{name}: reading, proving", "")
    block = run.skeleton.block(index)
    groups = prober.groups(index, block, streams.reference)
    run.progress(index, f"{name}: statistics", "")
    firsts = [g.readers[0] for g in groups if target.quantized.intersection(g.readers)]
    stats = _observe(run, index, block, firsts, calibration)
    with Recorder(block, firsts) as recorder:
        expected = streams.run(index, block, streams.reference)
    heldout = {reader: Heldout(x) for reader, x in recorder.inputs.items()}
    run.progress(index, f"{name}: search", "")
    weights = _weights(run, index, block)
    result = quantize_block(block, weights, groups, stats, heldout, target)
    del stats, heldout, recorder, weights
    run.progress(index, f"{name}: judging", "")
    errors = streams.judge(index, block, result, expected)
    fell_back = errors["awq"] >= errors["plain"]
    if fell_back:
        result, block = plain_result(result), run.skeleton.block(index)
        give_weights(block, result)
        errors["awq"] = errors["plain"]
    streams.written = streams.run(index, block, streams.written)
    streams.reference = expected
    run.pieces.write_block(index, result)
    run.progress(index + 1, name, _note(result, errors))
    return _entry(name, result, errors, fell_back=fell_back)


def _observe(
    run: Run, index: int, block: nn.Module, firsts: list[str], calibration: CalibrationStream
) -> dict[str, ActStats]:
    """Run the calibration tokens through the block: statistics by each group's first reader."""
    linears, device = run.skeleton.linears(index), run.skeleton.device
    stats = {name: ActStats(linears[name].in_features, device) for name in firsts}
    calibration.advance(index, lambda hidden, call: observe(block, hidden, call, stats))
    for name, found in stats.items():
        if not found.finite:
            raise ModelError(
                f"The input of '{run.skeleton.blocks[index]}.{name}' overflows or is NaN on the "
                f"calibration tokens, computed in {run.skeleton.dtype}. The model itself is broken "
                "there: check that it generates text before it is quantized, or fetch it again."
            )
    return stats


def _weights(run: Run, index: int, block: nn.Module) -> Weights:
    """Reads a linear's weight in float32, exactly as the source has it."""
    prefix, skeleton = run.skeleton.blocks[index], run.skeleton

    def weight_of(name: str) -> Tensor:
        parameter = block.get_parameter(f"{name}.weight")
        if parameter.dtype == torch.float32:
            return parameter.detach()
        stored = skeleton.stored(f"{prefix}.{name}.weight")
        return skeleton.source.parameter(stored).to(skeleton.device, torch.float32)

    return weight_of


def _pass_through(
    run: Run, index: int, calibration: CalibrationStream, streams: HeldoutStreams
) -> None:
    """Move all streams over a finished block."""
    block, target = run.skeleton.block(index), run.local_target(index)
    calibration.advance(index, lambda hidden, call: run_block(block, hidden, call))
    streams.reference = streams.run(index, block, streams.reference)
    weight_of = _weights(run, index, block)
    plain = {
        name: quantize(weight_of(name), target.scheme, name=name, dtype=target.dtype)
        for name in run.skeleton.linears(index)
        if name in target.quantized
    }
    give_weights(block, BlockResult(plain, plain, {}))
    streams.plain = streams.run(index, block, streams.plain)
    run.pieces.read_block(index, block)
    streams.written = streams.run(index, block, streams.written)


def _entry(
    name: str, result: BlockResult, errors: dict[str, float], *, fell_back: bool
) -> dict[str, Any]:
    """The block's journal line, which is also its evidence in salient.json."""
    groups = [
        {
            "readers": list(r.group.readers),
            "absorber": r.group.absorber if r.group.proven else None,
            "proof_error": r.group.proof_error,
            "refusal": r.group.refusal,
            "exponents": list(r.exponents),
            "kept": r.kept,
            "rounding": r.rounding,
            "layers": {layer.name: {"plain": layer.plain, "awq": layer.awq} for layer in r.layers},
        }
        for r in result.groups
    ]
    return {
        "block": name,
        "error_plain": errors["plain"],
        "error_awq": errors["awq"],
        "fell_back": fell_back,
        "groups": groups,
    }


def _note(result: BlockResult, errors: dict[str, float]) -> str:
    kept = sum(r.kept for r in result.groups)
    ratio = errors["awq"] / max(errors["plain"], 1e-30)
    return f"{kept}/{len(result.groups)} groups kept, {ratio:.2f} x plain rounding"
