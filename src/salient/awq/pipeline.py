"""The run: block by block from a 16-bit model to codes on disk.

With `--effort fast` one pass does all. For each block: read it, prove its scale groups, run the
calibration tokens through it (statistics), search, round, judge on held-out tokens, write the piece
and then its journal line. The reference's hidden states go on to the next block, so the statistics
of every block are those of the unquantized model. With more effort the blocks are quantized from
the last to the first (backward_pass.py), before the held-out tokens pass them here.

A resumed run passes the tokens through the finished blocks again (no search) and ends byte-equal to
an undisturbed one.
"""

from torch import nn

from salient.core.evidence import BlockEvidence
from salient.core.metrics import LogitsComparison
from salient.core.quant import quantize
from salient.models.block_call import run_block
from salient.models.scale_groups import GroupProver

from .backward_pass import quantize_backward
from .block_step import BlockTokens, parameters_of, quantize_step
from .heldout import HeldoutStreams, load_weights
from .results import BlockResult
from .run_state import QuantizeRun
from .token_streams import TokenStream


def quantize_blocks(run: QuantizeRun) -> dict[str, LogitsComparison]:
    """Quantize every block that the journal lacks.

    Returns the held-out measures of 'plain' rounding and of 'awq'.
    """
    streams = HeldoutStreams(run.skeleton, run.heldout)
    prober = GroupProver(run.skeleton, run.heldout)
    if run.effort.gradients:
        quantize_backward(run, streams, prober)
        calibration = None
    else:
        calibration = TokenStream(run.skeleton, run.samples)
    run.skeleton.forget_outer()
    for index, name in enumerate(run.skeleton.blocks):
        line = run.finished.get(name)
        run.watch.begin(run.pieces.source_tensors(index))
        if calibration is not None and line is None:
            run.finish(run.pieces.path(index), _quantize(run, index, calibration, streams, prober))
            continue
        assert line is not None
        run.show(index if calibration else run.steps, f"{name}: passing tokens through")
        block = run.skeleton.block(index)
        if calibration is not None:
            prober.ensure_proposals(index, streams.reference)
            _pass_calibration(index, block, calibration)
        _pass_heldout(run, index, block, streams)
        run.watch.end(line.source_tensors)
    run.show(run.steps, "measuring on held-out tokens")
    figures = streams.measure()
    run.skeleton.forget_outer()
    return figures


def _quantize(
    run: QuantizeRun,
    index: int,
    calibration: TokenStream,
    streams: HeldoutStreams,
    prober: GroupProver,
) -> BlockEvidence:
    """Quantize one block on its way forward; returns its evidence."""

    tokens = BlockTokens(calibration.passes(index), streams.reference)
    finished = quantize_step(run, index, prober, streams, tokens)
    calibration.leave()
    streams.written = streams.run(index, finished.module, streams.written)
    streams.reference = finished.expected
    return finished.evidence


def _pass_calibration(index: int, block: nn.Module, calibration: TokenStream) -> None:
    calibration.advance(index, lambda hidden, call, _: run_block(block, hidden, call))


def _pass_heldout(run: QuantizeRun, index: int, block: nn.Module, streams: HeldoutStreams) -> None:
    """Move the held-out tokens over a finished block."""
    target, name = run.local_target(index), run.skeleton.blocks[index]
    streams.reference = streams.run(index, block, streams.reference)
    parameter = parameters_of(run, index, block)
    evidence = run.finished[name].evidence
    assert evidence is not None
    plain = {
        name: quantize(
            parameter(f"{name}.weight"), target.scheme_of(name), name=name, dtype=target.dtype
        )
        for name in run.skeleton.linears(index)
        if name in target.quantized and name not in evidence.left_at_16_bits
    }
    load_weights(block, BlockResult(plain, plain, {}))
    streams.plain = streams.run(index, block, streams.plain)
    run.pieces.read_block(index, block)
    streams.written = streams.run(index, block, streams.written)
