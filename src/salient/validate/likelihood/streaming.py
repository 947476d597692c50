"""Texts as tokens, and both models streamed over them block by block."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from salient.core.corpus import builtin, read_texts
from salient.core.errors import CalibrationError
from salient.core.progress import Progress
from salient.models.block_call import run_block
from salient.models.skeleton import Skeleton
from salient.models.token_packing import pack_tokens
from salient.models.tokens import check_vocabulary, load_tokenizer
from salient.validate.model_pair import ModelPair

BATCH_TOKENS = 2048
SLICE = 256  # tokens whose logits are in memory at once
BUILTIN = "builtin (held out)"
PHRASE, MOST_PHRASES = 8, 2**20  # tokens of a phrase; phrases of a text that are compared
FEWEST_PHRASES = 0.1  # share of them that differ; 0.98 in the built-in corpus


def text_tokens(
    pair: ModelPair, text: str, windows: int | None, length: int, options: tuple[str, str]
) -> Tensor:
    """The first `windows` x `length` tokens of a text, as one row: int64 [tokens].

    text: BUILTIN, a file or a Hub data set   windows: None: as many as the text holds
    options: the names of the two numbers, for messages

    Raises CalibrationError where the text is too short or means nothing, or `length` is too long
    for the model.
    """
    skeleton = pair.reference.skeleton
    longest = skeleton.longest_context
    if longest and length > longest:
        raise CalibrationError(
            f"{options[1]} {length} is longer than the model's {longest} positions. Give at "
            f"most {longest}."
        )
    documents = builtin("heldout") if text == BUILTIN else read_texts(text)
    tokenizer = load_tokenizer(pair.reference.companions)
    batch = pack_tokens(documents, tokenizer, windows, length, text, options=options)
    check_vocabulary(batch.ids, skeleton.vocabulary, text)
    ids = batch.ids.flatten()
    share = different_phrases(ids)
    if share < FEWEST_PHRASES:
        raise CalibrationError(
            f"{text} has only {share:.1%} different phrases: it repeats itself, and its "
            "windows say no more than one. Use text like your model's use."
        )
    return ids


def different_phrases(ids: Tensor) -> float:
    """The share of the phrases of a text's tokens `ids` [tokens] that differ from each other."""
    phrases = ids[:MOST_PHRASES].unfold(0, PHRASE, 1)
    factors = torch.tensor([pow(0x9E3779B97F4A7C15, power, 2**63) for power in range(PHRASE)])
    return len((phrases * factors).sum(1).unique()) / len(phrases)


class WindowStream:
    """The windows `ids` [windows, tokens] streamed through the blocks of one model.

    start: the first block's input, float32 [windows, tokens, width] on the CPU
    """

    def __init__(self, skeleton: Skeleton, ids: Tensor, batch_tokens: int = BATCH_TOKENS):
        self.skeleton, self.ids = skeleton, ids
        batches = ids.split(max(1, batch_tokens // ids.shape[1]))
        started = [skeleton.calls(batch) for batch in batches]
        self.start = torch.cat([hidden.float().cpu() for hidden, _ in started])
        self._sizes = [len(batch) for batch in batches]
        self._calls = [calls for _, calls in started]

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Tensor:
        """`hidden` [windows, tokens, width] after block `index`: float32, on the CPU."""
        batches = zip(hidden.split(self._sizes), self._calls, strict=True)
        return torch.cat([run_block(block, h, calls[index]).cpu() for h, calls in batches])


def run_both(skeletons: list[Skeleton], ids: Tensor, progress: Progress) -> list[Tensor]:
    """The last hidden states of both models over `ids` [windows, tokens].

    float32 [windows, tokens, width] each, on the CPU.
    """
    streams = [WindowStream(skeleton, ids) for skeleton in skeletons]
    hidden = [stream.start for stream in streams]
    names = skeletons[0].blocks
    for index, name in enumerate(names):
        progress(index, len(names), f"{name}: both models")
        for side, stream in enumerate(streams):
            block = stream.skeleton.block(index)
            hidden[side] = stream.run(index, block, hidden[side])
    progress(len(names), len(names), "comparing")
    return hidden


def answers_of_both(
    pair: ModelPair, ids: Tensor, progress: Progress
) -> Iterator[tuple[Tensor, Tensor]]:
    """The answers of the reference and of the checkpoint, window by window.

    Of language models logits, [tokens, vocab] each (models/output_head.py).
    """
    hidden = run_both(pair.skeletons, ids, progress)
    for row, window in enumerate(ids):
        reference, quantized = (
            skeleton.answers(window[None], states[row : row + 1])[0]
            for skeleton, states in zip(pair.skeletons, hidden, strict=True)
        )
        yield reference, quantized


def logits_in_slices(
    pair: ModelPair, window: Tensor, states: list[Tensor]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The logits of both models over a window [tokens], SLICE tokens at a time.

    states: of run_both, the reference's first, [tokens, width] each

    Yields the slice's first position, and logits [slice, vocab] of each. A head reads one position,
    so the logits of a whole window, gigabytes of a long one, are never in memory.
    """
    for first in range(0, len(window), SLICE):
        some = slice(first, first + SLICE)
        reference, quantized = (
            skeleton.logits(window[None, some], each[None, some])[0]
            for skeleton, each in zip(pair.skeletons, states, strict=True)
        )
        yield first, reference, quantized
