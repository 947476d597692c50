"""Stage 1: KL, top-1 agreement and perplexity over texts, both models streamed block by block.

Both run in float32 with dequantized weights, so that the figures are the codes' alone, not a
kernel's.
"""

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import CalibrationError
from salient.core.intervals import FEWEST, Interval
from salient.core.metrics import LogitsComparison, compare_logits, intervals
from salient.core.progress import Progress
from salient.core.report import Table, duration
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ModelPair
from salient.validate.policy.verdict import Measurement
from salient.validate.stage import Stage

from .published import published_for, told
from .streaming import BUILTIN, logits_of_both, text_tokens
from .windows import PROTOCOLS, Protocol

KEPT_BYTES = 2**30  # of both models' hidden states: as many windows as fit go through at once
OPTIONS = ("--windows", "--window-length")
WINDOWS = 16  # of a text, unless a protocol takes all
JUDGED = (("kl", "nats a token"), ("top1", "share of tokens"), ("perplexity_increase", "ratio - 1"))


@dataclass(frozen=True)
class LikelihoodRequest:
    """What to measure on.

    windows: times `length` tokens of each text; None: WINDOWS, or with a named protocol all that
        the text holds
    stride: tokens from window to window; None: side by side
    named: one of evals.windows.PROTOCOLS in place of length and stride
    """

    texts: tuple[str, ...] = ()
    windows: int | None = None
    length: int = 512
    stride: int | None = None
    named: str | None = None

    @property
    def protocol(self) -> Protocol:
        if self.named is None:
            return Protocol(self.length, self.length if self.stride is None else self.stride)
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
) -> Stage:
    """Measure both models on each text. Raises CalibrationError for texts that do not do."""
    started = time.monotonic()
    texts = windows_of(pair, request)
    every = torch.cat(list(texts.values()))
    protocol = request.protocol
    firsts = [protocol.counted(number) for ids in texts.values() for number in range(len(ids))]
    compared = _compared(pair, every, firsts, store, progress)
    found, row = {}, 0
    for name, ids in texts.items():
        found[name] = compared[row : row + len(ids)]
        row += len(ids)
    return _stage(pair, protocol, found, time.monotonic() - started)


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
            "checkpoint": pair.checkpoint.seal,
            "reference": pair.reference.seal,
            "ids": hashlib.sha256(ids.numpy().tobytes()).hexdigest(),
            "shape": list(ids.shape),
            "counted": begin,
        }
        step = progress.part(number, 1, len(portions))
        rows = store.part(
            "likelihood", settings, lambda i=ids, b=begin, s=step: _rows(pair, i, b, s)
        )
        found += [LogitsComparison(**row) for row in rows]
    return found


def _rows(
    pair: ModelPair, ids: Tensor, firsts: list[int], progress: Progress
) -> list[dict[str, Any]]:
    logits = logits_of_both(pair, ids, progress)
    return [
        vars(compare_logits(reference[first:], quantized[first:], window[first:]))
        for (reference, quantized), window, first in zip(logits, ids, firsts, strict=True)
    ]


def _split(values: list[int], size: int) -> list[list[int]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _stage(
    pair: ModelPair, protocol: Protocol, found: dict[str, list[LogitsComparison]], seconds: float
) -> Stage:
    sums = {name: LogitsComparison.of(windows) for name, windows in found.items()}
    sure = {name: intervals(windows) for name, windows in found.items()}
    every = [window for windows in found.values() for window in windows]
    data = {
        "protocol": protocol.words,
        "window_length": protocol.window,
        "stride": protocol.stride,
        "seconds": round(seconds, 1),
        "texts": {name: _figures(found[name], sure[name]) for name in found},
        "all": _figures(every, intervals(every)),
        "published": published_for(pair.reference.source.config, protocol, sums),
    }
    lines = [
        f"{protocol.words[0].upper()}{protocol.words[1:]}; both models in float32; "
        f"{duration(seconds)}.",
        "In brackets 95 % intervals, by the bootstrap over windows.",
    ]
    few = [name for name, windows in found.items() if len(windows) < FEWEST]
    if few:
        lines[1] = f"Too few windows for intervals: {', '.join(few)}. Give at least {FEWEST}."
    lines += [told(row) for row in data["published"]]
    columns = ("text", "tokens", "KL (nats)", "top-1", "perplexity", "of the reference")
    rows = [_row(name, sums[name], sure[name]) for name in found]
    table = Table(f"{pair.checkpoint.name} against {pair.reference.name}", columns, rows)
    return Stage("likelihood", data, _measurements(sums, sure, found, lines), [table], lines)


def _figures(windows: list[LogitsComparison], sure: dict[str, Interval]) -> dict[str, Any]:
    return {
        **LogitsComparison.of(windows).figures(),
        "windows": len(windows),
        "intervals": {what: [each.low, each.high] for what, each in sure.items()},
    }


def _measurements(
    sums: dict[str, LogitsComparison],
    sure: dict[str, dict[str, Interval]],
    found: dict[str, list[LogitsComparison]],
    lines: list[str],
) -> list[Measurement]:
    """What the policy judges: of each figure the text that fares worst. One that is served well
    makes up for none that is not."""
    made = []
    for what, unit in JUDGED:
        worst = max(sums, key=lambda n, w=what: (-1 if w == "top1" else 1) * getattr(sums[n], w))
        made.append(
            Measurement(
                "likelihood",
                what,
                getattr(sums[worst], what),
                interval=sure[worst].get(what),
                unit=unit,
                sample=len(found[worst]),
            )
        )
    if len(sums) > 1:
        worst = max(sums, key=lambda name: sums[name].kl)
        lines.append(f"Of {len(sums)} texts the worst is judged; by KL it is {worst}.")
    return made


def _row(name: str, c: LogitsComparison, sure: dict[str, Interval]) -> tuple[str, ...]:
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
