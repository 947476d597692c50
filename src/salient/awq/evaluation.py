"""The verb `evaluate`: a checkpoint against its reference, both streamed block by block.

Both run in float32 with dequantized weights, so that the figures are the codes' alone, not a
kernel's.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.errors import CalibrationError, CheckpointError
from salient.core.progress import Progress
from salient.core.report import Report, Table, duration
from salient.core.texts import builtin, read_texts
from salient.evals.likelihood import Comparison, compare_logits, intervals
from salient.evals.statistics import FEWEST, Interval
from salient.evals.windows import Protocol
from salient.formats.checkpoint import Checkpoint, open_checkpoint
from salient.models.call import Call, run_block
from salient.models.skeleton import Skeleton
from salient.models.source import model_folder

from .calibration import check_vocabulary, load_tokenizer, tokenize
from .choices import pick_device

BATCH_TOKENS = 2048
BUILTIN = "builtin (held out)"


@dataclass(frozen=True)
class Measure:
    """What to measure on: `windows` times `length` tokens of each text, cut into windows of that
    length, each `stride` tokens after the one before; None: side by side."""

    texts: tuple[str, ...]
    windows: int
    length: int
    stride: int | None = None

    @property
    def protocol(self) -> Protocol:
        return Protocol(self.length, self.length if self.stride is None else self.stride)


def evaluate_checkpoint(
    checkpoint: str, reference: str, measure: Measure, device: str, progress: Progress
) -> Report:
    """Measure `checkpoint` against `reference`. Raises SalientError for what does not fit."""
    started = time.monotonic()
    where, protocol = pick_device(device), measure.protocol
    model, judge = (
        open_checkpoint(model_folder(checkpoint)),
        open_checkpoint(model_folder(reference)),
    )
    if judge.format is not None:
        raise CheckpointError(
            f"--reference {reference} is quantized itself. Give the 16-bit model it was made from."
        )
    skeletons = [Skeleton(source, torch.float32, where) for source in (judge, model)]
    _check_same_shape(skeletons, checkpoint, reference)
    ids = {
        name: protocol.windows(_tokens(name, judge, skeletons[0], measure))
        for name in measure.texts or (BUILTIN,)
    }
    every = torch.cat(list(ids.values()))
    hidden = _through_both(skeletons, every, progress)
    found: dict[str, list[Comparison]] = {}
    row = 0
    for name, part in ids.items():
        found[name] = []
        for number, window in enumerate(part):
            pair = [
                s.logits(window[None], h[row : row + 1])[0]
                for s, h in zip(skeletons, hidden, strict=True)
            ]
            first = protocol.counted(number)
            found[name].append(compare_logits(pair[0][first:], pair[1][first:], window[first:]))
            row += 1
    return _report(checkpoint, reference, protocol, found, time.monotonic() - started)


def _check_same_shape(skeletons: list[Skeleton], checkpoint: str, reference: str) -> None:
    shapes = [(len(s.blocks), s.width, s.vocabulary) for s in skeletons]
    if shapes[0] != shapes[1]:
        raise CheckpointError(
            f"{checkpoint} has (blocks, width, vocabulary) = {shapes[1]}, {reference} has "
            f"{shapes[0]}: they are not the same model. Give the model that the checkpoint was "
            "made from."
        )


def _tokens(name: str, judge: Checkpoint, skeleton: Skeleton, measure: Measure) -> Tensor:
    """The first tokens of a text, as many as the windows side by side hold."""
    longest, length = skeleton.longest_context, measure.length
    if longest and length > longest:
        raise CalibrationError(
            f"--window-length {length} is longer than the model's {longest} positions. Give at "
            f"most {longest}."
        )
    documents = builtin("heldout") if name == BUILTIN else read_texts(name)
    batch = tokenize(
        documents,
        load_tokenizer(judge.folder),
        measure.windows,
        length,
        name,
        options=("--windows", "--window-length"),
    )
    check_vocabulary(batch, skeleton.vocabulary, name)
    return batch.ids.flatten()


def _through_both(skeletons: list[Skeleton], ids: Tensor, progress: Progress) -> list[Tensor]:
    """The last hidden states of both models: float32 [windows, tokens, width] on the CPU."""
    batches = ids.split(max(1, BATCH_TOKENS // ids.shape[1]))
    hidden: list[list[Tensor]] = []
    calls: list[list[list[Call]]] = []
    for skeleton in skeletons:
        started = [skeleton.calls(batch) for batch in batches]
        hidden.append([states.cpu() for states, _ in started])
        calls.append([each for _, each in started])
    names = skeletons[0].blocks
    for index, name in enumerate(names):
        progress(index, len(names), f"{name}: both models", "")
        for skeleton, states, called in zip(skeletons, hidden, calls, strict=True):
            block = skeleton.block(index)
            for number, each in enumerate(called):
                states[number] = run_block(block, states[number], each[index]).cpu()
    progress(len(names), len(names), "comparing", "")
    return [torch.cat(states) for states in hidden]


def _report(
    checkpoint: str,
    reference: str,
    protocol: Protocol,
    found: dict[str, list[Comparison]],
    seconds: float,
) -> Report:
    columns = ("text", "tokens", "KL (nats)", "top-1", "perplexity", "of the reference")
    sums = {name: Comparison.of(windows) for name, windows in found.items()}
    sure = {name: intervals(windows) for name, windows in found.items()}
    rows = [_row(name, sums[name], sure[name]) for name in found]
    data = {
        "checkpoint": checkpoint,
        "reference": reference,
        "window_length": protocol.window,
        "stride": protocol.stride,
        "texts": {name: c.figures() for name, c in sums.items()},
        "intervals": {
            name: {what: [i.low, i.high] for what, i in each.items()} for name, each in sure.items()
        },
        "seconds": round(seconds, 1),
    }
    lines = [
        f"{protocol.words[0].upper()}{protocol.words[1:]}; both models in float32; "
        f"{duration(seconds)}.",
        "In brackets 95 % intervals, by the bootstrap over windows.",
    ]
    few = [name for name, windows in found.items() if len(windows) < FEWEST]
    if few:
        lines[1] = f"Too few windows for intervals: {', '.join(few)}. Give at least {FEWEST}."
    return Report(data, [Table(f"{checkpoint} against {reference}", columns, rows)], lines)


def _row(name: str, c: Comparison, sure: dict[str, Interval]) -> tuple[str, ...]:
    return (
        name,
        str(c.tokens),
        f"{c.kl:.4f}{_ends(sure, 'kl', '.4f')}",
        f"{c.top1:.1%}{_ends(sure, 'top1', '.1%')}",
        f"{c.perplexity_quantized:.3f}{_ends(sure, 'perplexity_quantized', '.3f')}",
        f"{c.perplexity_reference:.3f}",
    )


def _ends(sure: dict[str, Interval], what: str, form: str) -> str:
    return f" [{sure[what].low:{form}}, {sure[what].high:{form}}]" if sure else ""
