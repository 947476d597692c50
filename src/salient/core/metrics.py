"""Likelihood measures: two models' logits over the same tokens, compared.

KL          mean over tokens of KL(reference || quantized), nats
top-1       share of tokens where both prefer the same next token
perplexity  exp of the mean negative log-likelihood of the text's own next token, of each model
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from .evidence import LogitsFigures
from .intervals import FEWEST, Array, Interval, bootstrap_ratio, exp

ROWS = 128  # tokens compared at once: bounds the memory of large vocabularies


@dataclass
class LogitsComparison:
    """Sums over tokens; `add` joins the sums of other tokens."""

    tokens: int = 0
    kl_sum: float = 0.0
    agreed: int = 0
    predicted: int = 0
    nll_reference: float = 0.0
    nll_quantized: float = 0.0
    cosine_sum: float | None = None

    @classmethod
    def of(cls, parts: "Sequence[LogitsComparison]") -> "LogitsComparison":
        """The sums over several sets of tokens."""
        whole = cls()
        for part in parts:
            whole.add(part)
        return whole

    def add(self, other: "LogitsComparison") -> None:
        """Add the sums of other tokens."""
        for name, value in vars(other).items():
            if value is not None:
                setattr(self, name, (getattr(self, name) or 0) + value)

    @property
    def kl(self) -> float:
        """Mean KL(reference || quantized), nats a token."""
        return self.kl_sum / max(self.tokens, 1)

    @property
    def top1(self) -> float:
        """Share of tokens with the same most likely next token, 0 to 1."""
        return self.agreed / max(self.tokens, 1)

    @property
    def cosine(self) -> float | None:
        """Mean cosine of two models' embeddings; None for models with other answers."""
        return None if self.cosine_sum is None else self.cosine_sum / max(self.tokens, 1)

    @property
    def perplexity_reference(self) -> float:
        return exp(self.nll_reference / max(self.predicted, 1))

    @property
    def perplexity_quantized(self) -> float:
        return exp(self.nll_quantized / max(self.predicted, 1))

    @property
    def perplexity_increase(self) -> float:
        """Quantized / reference - 1."""
        return exp((self.nll_quantized - self.nll_reference) / max(self.predicted, 1)) - 1

    def figures(self) -> dict[str, float]:
        """The measures as plain numbers."""
        figures = {figure.name: getattr(self, figure.name) for figure in fields(LogitsFigures)}
        return {name: value for name, value in figures.items() if value is not None}


def compare_logits(reference: Tensor, quantized: Tensor, ids: Tensor) -> LogitsComparison:
    """Compare two models' logits [tokens, vocab] over the text `ids` [tokens] that gave them."""
    sums = LogitsComparison()
    following = torch.cat([ids[1:], ids.new_full((1,), -1)]).to(reference.device)
    pieces = (torch.split(tensor, ROWS) for tensor in (reference, quantized, following))
    for r, q, n in zip(*pieces, strict=True):
        log_r, log_q = r.float().log_softmax(-1), q.float().log_softmax(-1)
        sums.tokens += len(r)
        lost = log_r.exp() * (log_r - log_q)
        lost = lost.where(log_r > -math.inf, 0.0)  # a masked token: 0 log 0 = 0
        sums.kl_sum += float(lost.sum(-1).double().sum())
        sums.agreed += int((log_r.argmax(-1) == log_q.argmax(-1)).sum())
        known = n >= 0
        sums.predicted += int(known.sum())
        index = n.clamp(min=0)[:, None]
        sums.nll_reference -= float(log_r.gather(1, index)[known].double().sum())
        sums.nll_quantized -= float(log_q.gather(1, index)[known].double().sum())
    return sums


def relative_error(output: Tensor, expected: Tensor) -> float:
    """Mean over tokens of |output - expected|^2 / |expected|^2; both [samples, tokens, width].

    Token by token, because the next norm divides by each token's own size: a few tokens with
    massive activations would drown all others (Sun et al. 2024, "Massive Activations").
    """
    size = expected.square().sum(-1).clamp(min=1e-30)
    return float(((output - expected).square().sum(-1) / size).mean())


def intervals(windows: Sequence[LogitsComparison], level: float = 0.95) -> dict[str, Interval]:
    """Bootstrap intervals of a text's figures over its windows; {} for fewer than FEWEST windows.

    The tokens of a window depend on each other, so windows are resampled, not tokens. The keys
    are those of `LogitsComparison.figures`; perplexity_increase is measured pair by pair, and is
    exactly 0 for models that predict no tokens.
    """
    if len(windows) < FEWEST:
        return {}
    tokens, predicted = _column(windows, "tokens"), _column(windows, "predicted")
    reference, quantized = _column(windows, "nll_reference"), _column(windows, "nll_quantized")
    ratios = {
        "kl": (_column(windows, "kl_sum"), tokens),
        "top1": (_column(windows, "agreed"), tokens),
        "perplexity_reference": (reference, predicted),
        "perplexity_quantized": (quantized, predicted),
        "perplexity_increase": (quantized - reference, predicted),
    }
    bounded = {
        name: _interval(name, tops, bottoms, level)
        for name, (tops, bottoms) in ratios.items()
        if bottoms.any()
    }
    return (
        bounded if predicted.any() else {**bounded, "perplexity_increase": Interval(0, 0, 0, level)}
    )


def _column(windows: Sequence[LogitsComparison], name: str) -> Array:
    return np.array([getattr(window, name) for window in windows], dtype=np.float64)


def _interval(name: str, tops: Array, bottoms: Array, level: float) -> Interval:
    interval = bootstrap_ratio(tops, bottoms, level)
    if name == "perplexity_increase":
        return interval.through(lambda nats: exp(nats) - 1)
    if name.startswith("perplexity"):
        return interval.through(exp)
    return replace(interval, high=min(interval.high, 1.0)) if name == "top1" else interval
