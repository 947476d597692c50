"""The run: block by block from a 16-bit model to codes on disk. Reads top to bottom.

For each block: read it, prove its scale groups, run the calibration tokens through it (statistics),
search, round, judge
on held-out tokens, write the piece and then its journal line. The reference's hidden states go on
to the next block, so the
statistics of every block are those of the unquantized model. Three held-out streams run alongside:
the reference's, plain
rounding's and the written checkpoint's; after the last block their logits give the measured KL.

A resumed run passes the finished blocks' tokens through again (no search) and ends byte-equal to an
undisturbed one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from salient.core.errors import ModelError
from salient.core.quant import quantize
from salient.evals.likelihood import Comparison, compare_logits
from salient.formats import load_format
from salient.formats.checkpoint import Checkpoint, open_piece
from salient.formats.writer import write_tensors
from salient.models.groups import Probe, ScaleGroup, find_groups
from salient.models.skeleton import Call, Skeleton, run_block

from .block import BlockResult, Heldout, Target, effective_state, plain_result, quantize_block
from .journal import Journal
from .stats import ActStats, Recorder, observe

BATCH_TOKENS = 2048  # tokens that go through a block at once
PROBE = (2, 16)  # samples, tokens to watch and prove with
HIDDEN_DTYPE = (
    torch.bfloat16
)  # hidden states between blocks: half the memory, and the range of float32

Progress = Callable[
    [int, str, str], None
]  # finished blocks, what is being done, a word about the last block


@dataclass
class Run:
    """Everything a run is made of.

    samples, heldout: int64 [samples, tokens]
    quantized: full names of the linears that become codes
    """

    source: Checkpoint
    skeleton: Skeleton
    samples: Tensor
    heldout: Tensor
    target: Target
    format: str
    quantized: frozenset[str]
    journal: Journal
    progress: Progress = lambda done, doing, note: None
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder = self.journal.folder


@dataclass
class Streams:
    """Hidden states at the current block.

    calibration: batches [samples, tokens, width], 16 bits, on the CPU
    reference, plain, written: the held-out tokens [samples, tokens, width], float32
    """

    calibration: list[Tensor]
    reference: Tensor
    plain: Tensor
    written: Tensor


@dataclass
class Calls:
    """What each block is called with, by block: for each calibration batch, the held-out tokens,
    and the probes."""

    batches: list[list[Call]]
    heldout: list[Call]
    sequences: list[Call]
    tokens: list[Call]


def piece_path(folder: Path, index: int) -> Path:
    """The file of block `index` in an unfinished run; -1 is everything that is no block."""
    return folder / ("outer.safetensors" if index < 0 else f"block-{index:05d}.safetensors")


def quantize_blocks(run: Run) -> dict[str, Comparison]:
    """Quantize every block that the journal lacks. Returns the held-out measures of 'plain'
    rounding and of 'awq'."""
    streams, calls = _start(run)
    run.skeleton.forget_outer()
    seen: dict[str, list[ScaleGroup]] = {}
    for index, name in enumerate(run.skeleton.blocks):
        if index < len(run.journal.done):
            run.progress(index, f"{name}: passing tokens through", "")
            _pass_through(run, index, streams, calls)
        else:
            entry = _quantize_one(run, index, streams, calls, seen)
            run.journal.finish_block(entry)
    run.progress(len(run.skeleton.blocks), "measuring on held-out tokens", "")
    return _measure(run, streams)


def _start(run: Run) -> tuple[Streams, Calls]:
    """Embed all tokens and see what each block is called with."""
    skeleton, length = run.skeleton, run.samples.shape[1]
    size = max(1, BATCH_TOKENS // length)
    hidden, batches = [], []
    for ids in run.samples.split(size):
        states, calls = skeleton.calls(ids)
        hidden.append(states.to("cpu", HIDDEN_DTYPE))
        batches.append(calls)
    reference, heldout = skeleton.calls(run.heldout)
    samples, tokens = PROBE
    sequences = skeleton.calls(run.heldout[:samples, :tokens])[1]
    single = skeleton.calls(run.heldout[0, :tokens, None])[1]
    reference = reference.float().cpu()
    return Streams(hidden, reference, reference, reference), Calls(
        batches, heldout, sequences, single
    )


def _quantize_one(
    run: Run, index: int, streams: Streams, calls: Calls, seen: dict[str, list[ScaleGroup]]
) -> dict[str, Any]:
    """One block from its weights to its piece on disk; returns its journal line."""
    name, skeleton = run.skeleton.blocks[index], run.skeleton
    run.progress(index, f"{name}: reading, proving", "")
    block = skeleton.block(index)
    groups = _proven_groups(run, index, block, streams, calls, seen)
    run.progress(index, f"{name}: statistics", "")
    stats, heldout, expected = _gather(run, index, block, groups, streams, calls)
    run.progress(index, f"{name}: search", "")
    local = frozenset(n.removeprefix(f"{name}.") for n in run.quantized if n.startswith(f"{name}."))
    target = Target(run.target.scheme, run.target.dtype, local)
    result = quantize_block(block, _weights(run, index, block), groups, stats, heldout, target)
    del stats, heldout
    run.progress(index, f"{name}: judging", "")
    errors = _judge(result, block, streams, calls.heldout[index], expected)
    fell_back = errors["awq"] >= errors["plain"]
    if fell_back:
        result, block = plain_result(result), skeleton.block(index)
        _load(block, result)
        errors["awq"] = errors["plain"]
    streams.written = _run_heldout(block, streams.written, calls.heldout[index])
    streams.reference = expected
    write_tensors(piece_path(run.folder, index), _piece(run, index, result))
    run.progress(index + 1, name, _note(result, errors))
    return _entry(name, result, errors, fell_back=fell_back)


def _proven_groups(
    run: Run,
    index: int,
    block: nn.Module,
    streams: Streams,
    calls: Calls,
    seen: dict[str, list[ScaleGroup]],
) -> list[ScaleGroup]:
    """The block's scale groups, proven in float32; blocks of the same shape share proposals."""
    exact = (
        block
        if next(block.parameters()).dtype == torch.float32
        else run.skeleton.block(index, torch.float32)
    )
    samples, tokens = PROBE
    states = streams.reference[:, :tokens]
    probe = Probe(states[:samples], calls.sequences[index], states[0, :, None], calls.tokens[index])
    shape = repr([(n, tuple(p.shape)) for n, p in exact.named_parameters()])
    groups = find_groups(exact, probe, seen.get(shape))
    seen[shape] = groups
    return groups


def _gather(
    run: Run, index: int, block: nn.Module, groups: list[ScaleGroup], streams: Streams, calls: Calls
) -> tuple[dict[str, ActStats], dict[str, Heldout], Tensor]:
    """Run all tokens through the block: statistics and held-out inputs by first reader, and the
    held-out output."""
    linears = run.skeleton.linears(index)
    prefix = run.skeleton.blocks[index]
    firsts = [
        g.readers[0] for g in groups if any(f"{prefix}.{n}" in run.quantized for n in g.readers)
    ]
    stats = {n: ActStats.empty(linears[n].in_features, run.skeleton.device) for n in firsts}
    for number, batch in enumerate(streams.calibration):
        out = observe(block, batch, calls.batches[number][index], stats)
        streams.calibration[number] = out.to("cpu", HIDDEN_DTYPE)
    with Recorder(block, firsts) as recorder:
        expected = _run_heldout(block, streams.reference, calls.heldout[index])
    return stats, {n: Heldout(x) for n, x in recorder.inputs.items()}, expected


def _weights(run: Run, index: int, block: nn.Module) -> Callable[[str], Tensor]:
    """Reads a linear's weight in float32, exactly as the source has it."""
    prefix = run.skeleton.blocks[index]

    def weight_of(name: str) -> Tensor:
        parameter = block.get_parameter(f"{name}.weight")
        if parameter.dtype == torch.float32:
            return parameter.detach()
        stored = run.skeleton.stored(f"{prefix}.{name}.weight")
        return run.source.parameter(stored).to(run.skeleton.device, torch.float32)

    return weight_of


def _judge(
    result: BlockResult, block: nn.Module, streams: Streams, call: Call, expected: Tensor
) -> dict[str, float]:
    """The block's relative output error on held-out tokens by plain rounding and as written.

    Moves the plain stream on; leaves the block with the written weights.
    """
    errors = {}
    for kind, version in (("plain", plain_result(result)), ("awq", result)):
        _load(block, version)
        out = _run_heldout(block, streams.reference, call)
        errors[kind] = relative_error(out, expected)
        if kind == "plain":
            streams.plain = _run_heldout(block, streams.plain, call)
    return errors


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Mean over tokens of |found - expected|^2 / |expected|^2; both [samples, tokens, width].

    Token by token, because the next norm divides by each token's own size: a few tokens with
    massive activations would drown all others (Sun et al. 2024, "Massive Activations").
    """
    size = expected.square().sum(-1).clamp(min=1e-30)
    return float(((found - expected).square().sum(-1) / size).mean())


def _run_heldout(block: nn.Module, hidden: Tensor, call: Call) -> Tensor:
    return run_block(block, hidden, call).float().cpu()


def _load(block: nn.Module, result: BlockResult) -> None:
    """Give `block` the weights that `result` stands for."""
    for name, value in effective_state(result).items():
        block.get_parameter(name).data.copy_(value)


def _piece(run: Run, index: int, result: BlockResult) -> dict[str, Tensor]:
    """All tensors of the block as the checkpoint holds them, by the names that the source's files
    have."""
    prefix, code = run.skeleton.blocks[index], load_format(run.format)
    tensors = {}
    for full in run.skeleton.parameter_names(index):
        local, stored = full.removeprefix(f"{prefix}."), run.skeleton.stored(full)
        weight = result.weights.get(local.removesuffix(".weight"))
        if weight is not None and local.endswith(".weight"):
            module = stored.removesuffix(".weight")
            packed = code.pack(weight, run.target.dtype)
            tensors |= {f"{module}.{suffix}": tensor for suffix, tensor in packed.items()}
        else:
            tensors[stored] = (
                result.folded[local] if local in result.folded else sixteen_bit(run, stored)
            )
    return tensors


def sixteen_bit(run: Run, stored: str) -> Tensor:
    """A tensor that is not quantized, in the checkpoint's 16-bit type. Raises ModelError if that
    cannot hold it."""
    return in_dtype(stored, run.source.parameter(stored), run.target.dtype)


def in_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """`tensor` in `dtype`, integers as they are. Raises ModelError naming it where float16
    overflows."""
    if not tensor.is_floating_point():
        return tensor
    made = tensor.to(dtype)
    if not bool(torch.isfinite(made).all()) and bool(torch.isfinite(tensor).all()):
        raise ModelError(
            f"{name!r} reaches {float(tensor.abs().max()):.3g}, more than {dtype} holds. Write the "
            "checkpoint with --dtype bfloat16."
        )
    return made


def write_outer(run: Run) -> None:
    """Write the piece of everything that is no block: embedding, final norm, head. It is kept at 16
    bits."""
    path = piece_path(run.folder, -1)
    if not path.exists():
        names = run.skeleton.outer_names()
        write_tensors(path, {name: sixteen_bit(run, name) for name in names})


def _pass_through(run: Run, index: int, streams: Streams, calls: Calls) -> None:
    """Move all streams over a finished block."""
    skeleton, name = run.skeleton, run.skeleton.blocks[index]
    block = skeleton.block(index)
    for number, batch in enumerate(streams.calibration):
        out = run_block(block, batch, calls.batches[number][index])
        streams.calibration[number] = out.to("cpu", HIDDEN_DTYPE)
    call = calls.heldout[index]
    streams.reference = _run_heldout(block, streams.reference, call)
    weight_of = _weights(run, index, block)
    linears = [n for n in skeleton.linears(index) if f"{name}.{n}" in run.quantized]
    plain = {
        n: quantize(weight_of(n), run.target.scheme, name=n, dtype=run.target.dtype)
        for n in linears
    }
    _load(block, BlockResult(plain, plain, {}))
    streams.plain = _run_heldout(block, streams.plain, call)
    written = _written_block(run, index, block)
    streams.written = _run_heldout(written, streams.written, call)


def _written_block(run: Run, index: int, block: nn.Module) -> nn.Module:
    """`block` with the weights of its piece on disk."""
    config = {"quantization_config": load_format(run.format).config(run.target.scheme, [])}
    piece = open_piece(piece_path(run.folder, index), config)
    prefix = run.skeleton.blocks[index]
    for name, parameter in block.named_parameters():
        parameter.data.copy_(piece.parameter(run.skeleton.stored(f"{prefix}.{name}")))
    return block


def _measure(run: Run, streams: Streams) -> dict[str, Comparison]:
    """KL, top-1 and perplexity of plain rounding and of the written checkpoint on the held-out
    tokens."""
    found = {"plain": Comparison(), "awq": Comparison()}
    for row, ids in enumerate(run.heldout.split(1)):
        reference = run.skeleton.logits(ids, streams.reference[row : row + 1])
        for kind, hidden in (("plain", streams.plain), ("awq", streams.written)):
            found[kind].add(
                compare_logits(
                    reference[0], run.skeleton.logits(ids, hidden[row : row + 1])[0], ids[0]
                )
            )
    return found


def _entry(
    name: str, result: BlockResult, errors: dict[str, float], *, fell_back: bool
) -> dict[str, Any]:
    """The block's journal line, which is also its evidence in salient.json."""
    groups = []
    for r in result.groups:
        groups.append(
            {
                "readers": list(r.group.readers),
                "absorber": r.group.absorber if r.group.proven else None,
                "proof_error": r.group.proof_error,
                "refusal": r.group.refusal,
                "exponents": list(r.exponents),
                "kept": r.kept,
                "rounding": r.rounding,
                "layers": {
                    layer.name: {"plain": layer.plain, "awq": layer.awq} for layer in r.layers
                },
            }
        )
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
    return f"{kept}/{len(result.groups)} groups kept, block error {ratio:.2f} x plain rounding"
