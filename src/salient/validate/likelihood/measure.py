"""The likelihood stage: KL, top-1 agreement and perplexity over texts.

Both models are streamed block by block in float32 with dequantized weights: the figures are those
of the codes, whatever the kernel.
"""

import time
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from salient.core.errors import CalibrationError
from salient.core.metrics import LogitsComparison
from salient.core.progress import Progress
from salient.validate.cache import ValidationCache, digest_tokens
from salient.validate.model_pair import ModelPair

from .protocols import PROTOCOLS, EvaluationProtocol, published_for
from .result import LikelihoodResult, TextComparison
from .streaming import BUILTIN, answers_of_both, text_tokens

STATE_BYTES = 2**30  # of both models' hidden states: as many windows as fit run at once
OPTIONS = ("--samples", "--sequence-length")
WINDOWS = 16  # of a text, unless a protocol takes all


@dataclass(frozen=True)
class LikelihoodRequest:
    """Options of the stage.

    windows: times `length` tokens of each text; None: WINDOWS, or with a named protocol all that
        the text holds
    stride: tokens from window to window; None: side by side
    named: one of PROTOCOLS in place of length and stride
    """

    texts: tuple[str, ...] = ()
    windows: int | None = None
    length: int = 512
    stride: int | None = None
    named: str | None = None

    @property
    def protocol(self) -> EvaluationProtocol:
        if self.named is None:
            stride = self.length if self.stride is None else self.stride
            return EvaluationProtocol(self.length, stride)
        if self.named not in PROTOCOLS:
            raise CalibrationError(
                f"No protocol {self.named!r}. Known: {', '.join(PROTOCOLS)}; or give "
                "--sequence-length and --stride."
            )
        return PROTOCOLS[self.named]

    @property
    def count(self) -> int | None:
        """Windows of a text; None: all."""
        return WINDOWS if self.windows is None and self.named is None else self.windows


def measure_likelihood(
    pair: ModelPair, request: LikelihoodRequest, cache: ValidationCache, progress: Progress
) -> LikelihoodResult:
    """Measure both models on each text. Raises CalibrationError for an unusable text."""
    started = time.monotonic()
    protocol, texts = request.protocol, windows_of(pair, request)
    counts = [len(ids) for ids in texts.values()]
    firsts = [protocol.first_counted(number) for count in counts for number in range(count)]
    compared = _compare(pair, torch.cat(list(texts.values())), firsts, cache, progress)
    windows = iter(compared)
    comparisons = {
        name: TextComparison.of(list(islice(windows, count)))
        for name, count in zip(texts, counts, strict=True)
    }
    sums = {name: comparison.sums for name, comparison in comparisons.items()}
    return LikelihoodResult(
        protocol=protocol,
        seconds=time.monotonic() - started,
        texts=comparisons,
        total=TextComparison.of(compared),
        published=published_for(pair.reference.source.config, protocol, sums),
    )


def windows_of(pair: ModelPair, request: LikelihoodRequest) -> dict[str, Tensor]:
    """Each text's windows, int64 [windows, length]. Raises CalibrationError."""
    protocol = request.protocol
    return {
        name: protocol.windows(text_tokens(pair, name, request.count, protocol.window, OPTIONS))
        for name in request.texts or (BUILTIN,)
    }


def _compare(
    pair: ModelPair, every: Tensor, firsts: list[int], cache: ValidationCache, progress: Progress
) -> list[LogitsComparison]:
    """One comparison a window of `every` [windows, length], whose tokens count from `firsts` on."""
    width = pair.reference.skeleton.width
    size = max(1, STATE_BYTES // (2 * 4 * every.shape[1] * width))
    starts = range(0, len(every), size)
    comparisons: list[LogitsComparison] = []
    for number, start in enumerate(starts):
        ids, counted = every[start : start + size], firsts[start : start + size]
        settings = {**pair.fingerprints, "ids": digest_tokens(ids), "counted": counted}
        measure = partial(_compare_part, pair, ids, counted, progress.part(number, 1, len(starts)))
        comparisons += cache.part("likelihood", settings, measure, list[LogitsComparison])
    return comparisons


def _compare_part(
    pair: ModelPair, ids: Tensor, firsts: list[int], progress: Progress
) -> list[LogitsComparison]:
    answers, head = answers_of_both(pair, ids, progress), pair.reference.skeleton.head
    return [
        head.compare(reference[first:], quantized[first:], window[first:])
        for (reference, quantized), window, first in zip(answers, ids, firsts, strict=True)
    ]
