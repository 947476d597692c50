"""Likelihood measures: two models' logits over the same tokens, compared.

KL          mean over tokens of KL(reference || quantized), nats
top-1       share of tokens where both prefer the same next token
perplexity  exp of the mean negative log-likelihood of the text's own next token, of each model
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROWS = 128  # tokens compared at once: bounds the memory of large vocabularies


@dataclass
class Comparison:
    """Sums over tokens; `add` joins the sums of other tokens."""

    tokens: int = 0
    kl_sum: float = 0.0
    agreed: int = 0
    predicted: int = 0
    nll_reference: float = 0.0
    nll_quantized: float = 0.0

    def add(self, other: "Comparison") -> None:
        """Take in the sums of other tokens."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def kl(self) -> float:
        """Mean KL(reference || quantized), nats a token."""
        return self.kl_sum / max(self.tokens, 1)

    @property
    def top1(self) -> float:
        """Share of tokens with the same most likely next token, 0 to 1."""
        return self.agreed / max(self.tokens, 1)

    @property
    def perplexity_reference(self) -> float:
        """Perplexity of the reference."""
        return _exp(self.nll_reference / max(self.predicted, 1))

    @property
    def perplexity_quantized(self) -> float:
        """Perplexity of the quantized model."""
        return _exp(self.nll_quantized / max(self.predicted, 1))

    def figures(self) -> dict[str, Any]:
        """The measures as plain numbers."""
        return {
            "tokens": self.tokens,
            "kl": self.kl,
            "top1": self.top1,
            "perplexity_reference": self.perplexity_reference,
            "perplexity_quantized": self.perplexity_quantized,
        }


def _exp(nll: float) -> float:
    return math.exp(nll) if nll < 709 else math.inf


def compare_logits(reference: Tensor, quantized: Tensor, ids: Tensor) -> Comparison:
    """Compare two models' logits [tokens, vocab] over the text `ids` [tokens] that gave them."""
    found = Comparison()
    following = torch.cat([ids[1:], ids.new_full((1,), -1)]).to(reference.device)
    for r, q, n in zip(
        reference.split(ROWS), quantized.split(ROWS), following.split(ROWS), strict=True
    ):
        log_r, log_q = r.float().log_softmax(-1), q.float().log_softmax(-1)
        found.tokens += len(r)
        lost = log_r.exp() * (log_r - log_q)
        lost = lost.where(log_r > -math.inf, 0.0)  # a masked token: 0 log 0 = 0
        found.kl_sum += float(lost.sum(-1).double().sum())
        found.agreed += int((log_r.argmax(-1) == log_q.argmax(-1)).sum())
        known = n >= 0
        found.predicted += int(known.sum())
        index = n.clamp(min=0)[:, None]
        found.nll_reference -= float(log_r.gather(1, index)[known].double().sum())
        found.nll_quantized -= float(log_q.gather(1, index)[known].double().sum())
    return found
