"""Evaluation protocols, and the perplexities that others published with them.

A text is cut into windows, and each token counts once: in the first window all of them, in each
later one those that no earlier window had; the tokens before them in the window are context only.
Windows next to each other (a stride of their own length) are the protocol of the published tables
(GPTQ, AWQ: 2048 and 2048); a shorter stride gives every counted token at least `window - stride`
tokens of context, and a lower figure. Tokens at the end that fill no whole stride are left out.

A published model is recognized by its shape, which its fine-tuned children share: the reference's
own perplexity shows whether it is the model of the table.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from salient.core.errors import CalibrationError
from salient.core.metrics import LogitsComparison

TEXT = "wikitext2"
SAME = 0.01  # relative: a reference nearer than this to the published one is the same model
SCHEME = "AWQ, w4-g128"

SHAPE = (
    *("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"),
    "max_position_embeddings",
)


@dataclass(frozen=True)
class EvaluationProtocol:
    """Windows of `window` tokens, each `stride` tokens after the previous one."""

    window: int
    stride: int

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window:
            raise CalibrationError(
                f"--stride {self.stride} does not fit windows of {self.window} tokens: give 1 to "
                f"{self.window}; {self.window} puts them side by side."
            )

    @property
    def summary(self) -> str:
        """The protocol as text."""
        if self.stride == self.window:
            return f"windows of {self.window} tokens, side by side"
        least = self.window - self.stride
        return (
            f"windows of {self.window} tokens, each {self.stride} after the one before: every "
            f"token counts once, with at least {least} before it"
        )

    def windows(self, ids: Tensor) -> Tensor:
        """The windows of a text: [tokens] -> [count, window]."""
        return ids.unfold(0, self.window, self.stride)

    def first_counted(self, number: int) -> int:
        """The position in window `number` from which its tokens are predicted and counted."""
        return 0 if number == 0 or self.stride == self.window else self.window - self.stride - 1


# What published tables were measured with (GPTQ, arXiv 2210.17323, and AWQ, arXiv 2306.00978: all
# of WikiText-2's test part in windows of 2048), and one with more context.
PROTOCOLS = {"classic": EvaluationProtocol(2048, 2048), "sliding": EvaluationProtocol(2048, 512)}


# Values of SHAPE -> model, its perplexities of WikiText-2 by the classic protocol in 16-bit and at
# SCHEME, and their source.
_ROWS = json.loads((Path(__file__).parent / "data" / "published.json").read_text(encoding="utf-8"))
PUBLISHED: dict[tuple[object, ...], tuple[str, float, float, str]] = {
    tuple(shape): tuple(row) for shape, *row in _ROWS
}


@dataclass(frozen=True)
class PublishedComparison:
    """A published row and what was measured; the latter None by another text or protocol."""

    model: str
    reference: float
    quantized: float
    source: str
    text: str = TEXT
    protocol: str = "classic"
    scheme: str = SCHEME
    measured_reference: float | None = None
    measured_quantized: float | None = None

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        published = (
            f"Published for {self.model} on {self.text}: {self.reference:.2f} in 16-bit, "
            f"{self.quantized:.2f} with {self.scheme} ({self.source})"
        )
        own = self.measured_reference
        if own is None:
            return f"{published}. To compare: --text {TEXT} --protocol classic."
        if abs(own / self.reference - 1) > SAME:
            return (
                f"{published}. This reference measures {own:.2f}: it has that shape and is another "
                "model, or another text was read."
            )
        return (
            f"{published}; this reference measures {own:.2f}, the checkpoint "
            f"{self.measured_quantized:.2f}."
        )


def published_for(
    config: Mapping[str, Any],
    protocol: EvaluationProtocol,
    measured: Mapping[str, LogitsComparison],
) -> tuple[PublishedComparison, ...]:
    """The published row of a model with this config.json and what was measured, if there is one.

    measured: by text; only WikiText-2 by the classic protocol is comparable
    """
    shape = tuple(config.get(key) for key in SHAPE)
    row = PUBLISHED.get(shape)
    if row is None:
        return ()
    own = measured.get(TEXT) if protocol == PROTOCOLS["classic"] else None
    perplexities = (own.perplexity_reference, own.perplexity_quantized) if own else (None, None)
    return (PublishedComparison(*row, TEXT, "classic", SCHEME, *perplexities),)
