"""The verb `evaluate`: a checkpoint against its reference, both streamed block by block.

Both run in float32 with dequantized weights, so that the figures are the codes' alone, not a
kernel's.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from salient.core.errors import CalibrationError, CheckpointError
from salient.core.report import Report, Table, duration
from salient.core.texts import builtin, read_texts
from salient.evals.likelihood import Comparison, compare_logits
from salient.formats.checkpoint import Checkpoint, open_checkpoint
from salient.models.call import Call, run_block
from salient.models.skeleton import Skeleton
from salient.models.source import model_folder

from .calibration import check_vocabulary, load_tokenizer, tokenize
from .choices import pick_device

Progress = Callable[[int, int, str, str], None]
BATCH_TOKENS = 2048
BUILTIN = "builtin (held out)"


def evaluate_checkpoint(
    checkpoint: str,
    reference: str,
    texts: tuple[str, ...],
    windows: int,
    length: int,
    device: str,
    progress: Progress,
) -> Report:
    """Measure `checkpoint` on `windows` windows of `length` tokens of each text."""
    started = time.monotonic()
    where = pick_device(device)
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
        name: _windows(name, judge, skeletons[0], windows, length) for name in texts or (BUILTIN,)
    }
    every = torch.cat(list(ids.values()))
    hidden = _through_both(skeletons, every, progress)
    found, row = {}, 0
    for name, part in ids.items():
        found[name] = Comparison()
        for window in part:
            pair = [
                s.logits(window[None], h[row : row + 1])[0]
                for s, h in zip(skeletons, hidden, strict=True)
            ]
            found[name].add(compare_logits(pair[0], pair[1], window))
            row += 1
    return _report(checkpoint, reference, length, found, time.monotonic() - started)


def _check_same_shape(skeletons: list[Skeleton], checkpoint: str, reference: str) -> None:
    shapes = [(len(s.blocks), s.width, s.vocabulary) for s in skeletons]
    if shapes[0] != shapes[1]:
        raise CheckpointError(
            f"{checkpoint} has (blocks, width, vocabulary) = {shapes[1]}, {reference} has "
            f"{shapes[0]}: they are not the same model. Give the model that the checkpoint was "
            "made from."
        )


def _windows(name: str, judge: Checkpoint, skeleton: Skeleton, windows: int, length: int) -> Tensor:
    longest = skeleton.longest_context
    if longest and length > longest:
        raise CalibrationError(
            f"--window-length {length} is longer than the model's {longest} positions. Give at "
            f"most {longest}."
        )
    documents = builtin("heldout") if name == BUILTIN else read_texts(name)
    batch = tokenize(
        documents,
        load_tokenizer(judge.folder),
        windows,
        length,
        name,
        options=("--windows", "--window-length"),
    )
    check_vocabulary(batch, skeleton.vocabulary, name)
    return batch.ids


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
    checkpoint: str, reference: str, length: int, found: dict[str, Comparison], seconds: float
) -> Report:
    rows = []
    for name, c in found.items():
        perplexities = (f"{c.perplexity_reference:.3f}", f"{c.perplexity_quantized:.3f}")
        rows.append((name, str(c.tokens), f"{c.kl:.4f}", f"{c.top1:.1%}", *perplexities))
    columns = (
        "text",
        "tokens",
        "KL (nats)",
        "top-1",
        "perplexity, reference",
        "perplexity, quantized",
    )
    data = {
        "checkpoint": checkpoint,
        "reference": reference,
        "window_length": length,
        "texts": {name: c.figures() for name, c in found.items()},
        "seconds": round(seconds, 1),
    }
    line = f"Windows of {length} tokens, both models in float32; {duration(seconds)}."
    return Report(data, [Table(f"{checkpoint} against {reference}", columns, rows)], [line])
