"""What two models' logits give at every position: KL in float64 over the whole vocabulary.

    KL = sum_v p(v) (r(v) - q(v)) + log Z_q - log Z_r,   p = exp(r - log Z_r)

with r, q the logits and Z their normalizers. Products and sums are in float64, in slices of the
vocabulary, so that a KL of 1e-12 is still a figure and memory is bounded for any vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from salient.core.intervals import Array, Mask

VOCABULARY_SLICE = 4096  # logits of a row in float64 at once


@dataclass(frozen=True)
class PositionFigures:
    """Figures by position [positions].

    kl: KL(reference || model), nats   same: 1.0 where both prefer the same next token
    reference, model: log likelihood of the text's own next token; NaN at the end of a window
    """

    kl: Array
    same: Array
    reference: Array
    model: Array

    @classmethod
    def joined(cls, parts: "Sequence[PositionFigures]") -> "PositionFigures":
        """The figures of several parts, one after the other."""
        names = ("kl", "same", "reference", "model")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def select(self, positions: Mask) -> "PositionFigures":
        """The figures where `positions` [positions] is true."""
        return PositionFigures(
            self.kl[positions], self.same[positions], self.reference[positions],
            self.model[positions],
        )  # fmt: skip

    @property
    def predicted(self) -> Array:
        """1.0 where there is a next token, [positions]."""
        return np.isfinite(self.reference).astype(np.float64)

    @property
    def log_ratio(self) -> Array:
        """log(PPL of the model / PPL of the reference) by position; 0 without a next token."""
        return np.nan_to_num(self.reference - self.model)


def compare_positions(reference: Tensor, model: Tensor, following: Tensor) -> PositionFigures:
    """Compare logits [tokens, vocab] of two models.

    following: the text's next token at each position, -1 for none: int64 [tokens]
    """
    tops = [logits.amax(-1, keepdim=True).double() for logits in (reference, model)]
    count = len(reference)
    sums = [torch.zeros(count, dtype=torch.float64, device=reference.device) for _ in range(3)]
    for first in range(0, reference.shape[1], VOCABULARY_SLICE):
        part = slice(first, first + VOCABULARY_SLICE)
        r, q = reference[:, part].double(), model[:, part].double()
        weight = (r - tops[0]).exp()
        lost = (weight * (r - q)).where(weight > 0, 0.0)  # a masked token: 0 log 0 = 0
        sums[0] += weight.sum(-1)
        sums[1] += (q - tops[1]).exp_().sum(-1)
        sums[2] += lost.sum(-1)
    log_r, log_q = (top[:, 0] + total.log() for top, total in zip(tops, sums, strict=False))
    kl = sums[2] / sums[0] + (log_q - log_r)
    index = following.clamp(min=0)[:, None]
    unknown = following < 0
    likelihoods = (
        (logits.gather(1, index)[:, 0].double() - log_z).masked_fill(unknown, torch.nan)
        for logits, log_z in ((reference, log_r), (model, log_q))
    )
    same = reference.argmax(-1) == model.argmax(-1)
    return PositionFigures(*(_array(values) for values in (kl, same.double(), *likelihoods)))


def _array(values: Tensor) -> Array:
    return values.cpu().numpy()
