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
from salient.models.scale_groups import GroupProver

from .backward_pass import quantize_backward
from .block_step import BlockTokens, parameters_of, quantize_step
from .heldout import HeldoutStreams, load_weights
from .reconstruction_pass import ReconstructionPass
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
        _finish_forward(run, streams)
    else:
        _quantize_forward(run, streams, prober)
    run.show(run.steps, "measuring on held-out tokens")
    figures = streams.measure()
    run.skeleton.forget_outer()
    return figures


def _quantize_forward(run: QuantizeRun, streams: HeldoutStreams, prober: GroupProver) -> None:
    """Quantize from the first block to the last, without gradients."""
    calibration = TokenStream(run.skeleton, run.samples)
    run.skeleton.forget_outer()
    for index, name in enumerate(run.skeleton.blocks):
        line = run.finished.get(name)
        run.watch.begin(run.pieces.source_tensors(index))
        if line is None:
            evidence = _quantize(run, index, calibration, streams, prober)
            run.finish([run.pieces.path(index)], evidence)
            continue
        run.show(index, f"{name}: passing tokens through")
        prober.ensure_proposals(index, streams.reference)
        block = run.skeleton.block(index)
        calibration.forward(index, block)
        streams.reference = streams.run(index, block, streams.reference)
        _pass_written(run, index, block, streams)
        run.watch.end(line.source_tensors)


def _finish_forward(run: QuantizeRun, streams: HeldoutStreams) -> None:
    """Pass the held-out tokens through the finished blocks, and learn those that are to learn."""
    learning = ReconstructionPass(run) if run.effort.reconstruction_steps else None
    run.skeleton.forget_outer()
    for index, name in enumerate(run.skeleton.blocks):
        line = run.finished[name]
        assert line.evidence is not None
        run.watch.begin(run.pieces.source_tensors(index))
        run.show(run.done, f"{name}: passing tokens through")
        block = run.skeleton.block(index)
        streams.reference = streams.run(index, block, streams.reference)
        if learning is not None:
            learning.pass_reference(index, block)
            if line.evidence.reconstruction is None:
                path, evidence = learning.learn(index, streams)
                run.finish([path], evidence)
                run.watch.begin(run.pieces.source_tensors(index))
        _pass_written(run, index, block, streams)
        run.watch.end(line.source_tensors)
        if learning is not None:
            learning.pass_quantized(index, block)


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


def _pass_written(run: QuantizeRun, index: int, block: nn.Module, streams: HeldoutStreams) -> None:
    """Move the held-out tokens over a finished block; leaves `block` as it is written."""
    target, name = run.local_target(index), run.skeleton.blocks[index]
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
    run.pieces.read_block(run.pieces.final_path(index), index, block)
    streams.written = streams.run(index, block, streams.written)
