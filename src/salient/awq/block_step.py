"""One block of a run: read it, prove its scale groups, gather, search, round, judge, write.

The passes (pipeline.py, backward_pass.py) differ in the order of the blocks and in what the
statistics know of the end loss; what is done at a block is the same.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from salient.core.errors import ModelError
from salient.core.evidence import BlockEvidence
from salient.models.scale_groups import GroupProver

from .block import Parameters, quantize_block
from .block_statistics import BlockStatistics, Passes, groups_to_gather
from .fisher import GradientGatherer, gradient_fault
from .heldout import HeldoutStreams, load_weights
from .heldout_inputs import heldout_inputs
from .results import BlockResult, block_evidence, plain_result
from .run_state import BACKWARD_STEPS, QuantizeRun
from .statistics import Gatherer, PlainGatherer


@dataclass(frozen=True)
class BlockTokens:
    """The tokens that a block is quantized with.

    passes: runs the calibration tokens through it
    hidden: the held-out tokens' input of the 16-bit model, [samples, tokens, width]
    gradient: the end loss's at their output, the same shape; None without gradients
    """

    passes: Passes
    hidden: Tensor
    gradient: Tensor | None = None


@dataclass(frozen=True)
class FinishedBlock:
    """What a block hands on.

    module: with the written weights
    expected: the 16-bit model's output for the held-out tokens
    gradient: the end loss's at their input; None without gradients
    """

    module: nn.Module
    result: BlockResult
    evidence: BlockEvidence
    expected: Tensor
    gradient: Tensor | None


def quantize_step(
    run: QuantizeRun,
    index: int,
    prober: GroupProver,
    streams: HeldoutStreams,
    tokens: BlockTokens,
) -> FinishedBlock:
    """Quantize block `index` and write its file."""
    name, target = run.skeleton.blocks[index], run.local_target(index)
    done = run.done
    run.show(done, f"{name}: reading, proving")
    block = run.skeleton.block(index, torch.float32)
    groups = prober.groups(index, block, tokens.hidden)
    if run.skeleton.dtype != torch.float32:
        del block  # read twice rather than store both dtypes
        block = run.skeleton.block(index)
    gatherer, fault = _gatherer(run, block, index, streams, tokens)
    wanted = groups_to_gather(groups, target.quantized)
    stats = BlockStatistics(name, block, wanted, tokens.passes, gatherer)
    readers = {
        first: tuple(n for n in names if n in target.quantized)
        for first, names in stats.inputs.items()
    }
    heldout, expected, gradient = heldout_inputs(
        block, readers, tokens.hidden, streams.calls[index].every, _gradient(tokens, fault)
    )
    run.show(done, f"{name}: statistics, search")
    parameter = parameters_of(run, index, block)
    with run.skeleton.source.reading():
        result = quantize_block(block, parameter, groups, stats.of, heldout, target)
    check_range(name, stats.peak, target.dtype)
    borrowed, peak = stats.borrowed, stats.peak
    del stats, heldout, parameter
    run.show(done, f"{name}: judging")
    forward = tokens.gradient is None
    errors = streams.judge(index, block, result, tokens.hidden, expected, move_plain=forward)
    fell_back = errors["awq"] >= errors["plain"]
    if fell_back:
        result, block = plain_result(result), run.skeleton.block(index)
        load_weights(block, result)
        errors["awq"] = errors["plain"]
    run.pieces.write_block(run.pieces.path(index), index, result)
    run.show(done + (BACKWARD_STEPS if run.effort.gradients else 1), name, _note(result, errors))
    evidence = block_evidence(
        name, result, errors, borrowed, peak=peak, fell_back=fell_back, no_gradients=fault
    )
    handed_on = tokens.gradient if gradient is None else gradient
    return FinishedBlock(block, result, evidence, expected, handed_on)


def _gatherer(
    run: QuantizeRun, block: nn.Module, index: int, streams: HeldoutStreams, tokens: BlockTokens
) -> tuple[Gatherer, str]:
    """What gathers the block's statistics; why without gradients where there should be some."""
    if tokens.gradient is None:
        return PlainGatherer(block), ""
    fault = gradient_fault(block, *streams.first(index, tokens.hidden))
    if fault:
        return PlainGatherer(block), fault
    draws = run.effort.draws(run.samples.numel())
    return GradientGatherer(block, run.local_target(index).quantized, draws), ""


def _gradient(tokens: BlockTokens, fault: str) -> Tensor | None:
    return None if fault else tokens.gradient


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


def parameters_of(run: QuantizeRun, index: int, block: nn.Module) -> Parameters:
    """Reads a parameter of the block in float32, exactly as the source has it."""
    prefix, skeleton = run.skeleton.blocks[index], run.skeleton

    def parameter(name: str) -> Tensor:
        value = block.get_parameter(name)
        if value.dtype == torch.float32:
            return value.detach()
        return skeleton.files.read(f"{prefix}.{name}").to(skeleton.device, torch.float32)

    return parameter


def _note(result: BlockResult, errors: dict[str, float]) -> str:
    improved = sum(r.improved for r in result.groups)
    ratio = errors["awq"] / max(errors["plain"], 1e-30)
    return f"{improved}/{len(result.groups)} groups kept, {ratio:.2f} x plain rounding"
