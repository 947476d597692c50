"""The backward pass: from the last block to the first, with the gradients of the end loss.

First all tokens pass the 16-bit blocks forward; each block's inputs are stored. The gradients of
the end loss at the last block's output, with labels sampled from the model itself, then go down
block by block: the block runs again with gradients, which gives the statistics of its linears
(fisher.py); it is quantized and written; the gradient at its input is that of the block below. The
peak of memory stays that of one block.
"""

from contextlib import closing

import torch
from torch import Tensor

from salient.models.label_gradient import label_gradient
from salient.models.scale_groups import GroupProver

from .activation_store import ActivationStore
from .block_step import BlockTokens, quantize_step
from .fisher import gradient_fault, gradient_weights, run_backward
from .heldout import HeldoutStreams
from .reconstruction_pass import write_notes
from .run_state import HIDDEN_DTYPE, QuantizeRun
from .token_streams import GradientStream, batches_of

SEED = 0  # of the sampled labels of calibration; held-out tokens have their own
HELDOUT_SEED = 2**32


def quantize_backward(run: QuantizeRun, streams: HeldoutStreams, prober: GroupProver) -> None:
    """Quantize every block that the journal lacks, from the last to the first."""
    blocks, width = run.skeleton.blocks, run.skeleton.width
    missing = [index for index, name in enumerate(blocks) if name not in run.finished]
    if not missing:
        return
    shapes = [(*batch.shape, width) for batch in batches_of(run.samples)]
    inputs = ActivationStore(run.pieces.folder, len(blocks), shapes, HIDDEN_DTYPE)
    own = ActivationStore(
        run.pieces.folder, len(blocks), [(*run.heldout.shape, width)], torch.float32
    )
    with closing(inputs), closing(own):
        draws = run.effort.draws(run.samples.numel())
        calibration = GradientStream(run.skeleton, run.samples, inputs, draws)
        run.skeleton.forget_outer()
        last = _forward(run, calibration, streams, own)
        run.show(len(blocks), "gradients of the end loss")
        calibration.turn(SEED)
        gradient = label_gradient(run.skeleton, run.heldout, last, HELDOUT_SEED)
        run.skeleton.forget_outer()
        for index in range(len(blocks) - 1, missing[0] - 1, -1):
            tokens = BlockTokens(calibration.passes(index), own.read(index, 0), gradient)
            if blocks[index] in run.finished:
                prober.ensure_proposals(index, tokens.hidden)
                gradient = _pass_back(run, index, calibration, tokens, streams)
                continue
            run.watch.begin(run.pieces.source_tensors(index))
            weights = calibration.token_weights(), gradient_weights(gradient)
            block = quantize_step(run, index, prober, streams, tokens)
            calibration.leave()
            assert block.gradient is not None
            gradient = block.gradient
            paths = [run.pieces.path(index)]
            if run.effort.reconstruction_steps:
                paths.append(write_notes(run, index, block.result, *weights))
            run.finish(paths, block.evidence)


def _forward(
    run: QuantizeRun, calibration: GradientStream, streams: HeldoutStreams, store: ActivationStore
) -> Tensor:
    """Pass all tokens through the 16-bit blocks, storing their inputs.

    Returns the last block's output for the held-out tokens.
    """
    reference = streams.reference
    for index, name in enumerate(run.skeleton.blocks):
        run.show(index, f"{name}: passing tokens through")
        run.watch.check()
        block = run.skeleton.block(index)
        calibration.record(index)
        store.write(index, 0, reference)
        calibration.forward(index, block)
        reference = streams.run(index, block, reference)
    return reference


def _pass_back(
    run: QuantizeRun,
    index: int,
    calibration: GradientStream,
    tokens: BlockTokens,
    streams: HeldoutStreams,
) -> Tensor:
    """Move the gradients over a finished block; returns the held-out tokens' at its input."""
    name = run.skeleton.blocks[index]
    run.show(run.done, f"{name}: passing gradients back")
    run.watch.begin(run.pieces.source_tensors(index))
    block = run.skeleton.block(index)
    gradient = tokens.gradient
    assert gradient is not None
    if not gradient_fault(block, *streams.first(index, tokens.hidden)):
        calibration.back(index, block)
        every = streams.calls[index].every
        gradient = run_backward(block, tokens.hidden, every, gradient, {})[1]
    run.watch.end(run.finished[name].source_tensors)
    return gradient.float().cpu()
