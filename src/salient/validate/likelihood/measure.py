"""Stage 1: KL, top-1 agreement and perplexity over texts, both models streamed block by block.

Both run in float32 with dequantized weights, so that the figures are the codes' alone, not a
kernel's.
"""

import hashlib
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from salient.core.errors import CalibrationError
from salient.core.metrics import LogitsComparison, compare_logits
from salient.core.progress import Progress
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ModelPair

from .protocols import PROTOCOLS, EvaluationProtocol, published_for
from .result import LikelihoodResult, TextComparison
from .streaming import BUILTIN, logits_of_both, text_tokens

KEPT_BYTES = 2**30  # of both models' hidden states: as many windows as fit go through at once
OPTIONS = ("--windows", "--window-length")
WINDOWS = 16  # of a text, unless a protocol takes all


@dataclass(frozen=True)
class LikelihoodRequest:
    """What to measure on.

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
                "--window-length and --stride."
            )
        return PROTOCOLS[self.named]

    @property
    def count(self) -> int | None:
        """Windows of a text; None: all."""
        return WINDOWS if self.windows is None and self.named is None else self.windows


def measure_likelihood(
    pair: ModelPair, request: LikelihoodRequest, store: ValidationCache, progress: Progress
) -> LikelihoodResult:
    """Measure both models on each text. Raises CalibrationError for texts that do not do."""
    started = time.monotonic()
    texts = windows_of(pair, request)
    every = torch.cat(list(texts.values()))
    protocol = request.protocol
    firsts = [
        protocol.first_counted(number) for ids in texts.values() for number in range(len(ids))
    ]
    compared = _compared(pair, every, firsts, store, progress)
    windows, row = {}, 0
    for name, ids in texts.items():
        windows[name] = compared[row : row + len(ids)]
        row += len(ids)
    comparisons = {name: TextComparison.of(each) for name, each in windows.items()}
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


def _compared(
    pair: ModelPair, every: Tensor, firsts: list[int], store: ValidationCache, progress: Progress
) -> list[LogitsComparison]:
    """One comparison a window of `every` [windows, length], those from `firsts` on counted."""
    width = pair.reference.skeleton.width
    portion = max(1, KEPT_BYTES // (2 * 4 * every.shape[1] * width))
    portions = list(zip(every.split(portion), _split(firsts, portion), strict=True))
    found: list[LogitsComparison] = []
    for number, (ids, begin) in enumerate(portions):
        settings = {
            "checkpoint": pair.checkpoint.fingerprint,
            "reference": pair.reference.fingerprint,
            "ids": hashlib.sha256(ids.numpy().tobytes()).hexdigest(),
            "shape": list(ids.shape),
            "counted": begin,
        }
        step = progress.part(number, 1, len(portions))
        found += store.part(
            "likelihood",
            settings,
            lambda i=ids, b=begin, s=step: _rows(pair, i, b, s),
            list[LogitsComparison],
        )
    return found


def _rows(
    pair: ModelPair, ids: Tensor, firsts: list[int], progress: Progress
) -> list[LogitsComparison]:
    logits = logits_of_both(pair, ids, progress)
    return [
        compare_logits(reference[first:], quantized[first:], window[first:])
        for (reference, quantized), window, first in zip(logits, ids, firsts, strict=True)
    ]


def _split(values: list[int], size: int) -> list[list[int]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
