"""Published perplexities of known models, to hold a measurement against.

A model is known by its shape, which its fine-tuned children share: the reference's own perplexity
tells whether it is the one that the table means. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from .windows import PROTOCOLS
from .windows import Protocol as Windows

TEXT = "wikitext2"
SAME = 0.01  # relative: a reference nearer than this to the published one is the same model
SCHEME = "AWQ, w4-g128"
PAPER = "AWQ (arXiv 2306.00978), table 4"
DEEPCOMPRESSOR = "README of github.com/mit-han-lab/deepcompressor"

SHAPE = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size")


@dataclass(frozen=True)
class Published:
    """A row: perplexities of WikiText-2 by the classic protocol, at 16 bits and at SCHEME.

    shape: the values of SHAPE, and max_position_embeddings
    """

    model: str
    shape: tuple[int, int, int, int, int]
    reference: float
    quantized: float
    source: str


ROWS = (
    Published("Llama-7B", (4096, 32, 11008, 32000, 2048), 5.68, 5.78, PAPER),
    Published("Llama-2-7B", (4096, 32, 11008, 32000, 4096), 5.47, 5.60, PAPER),
    Published("Llama-2-13B", (5120, 40, 13824, 32000, 4096), 4.88, 4.97, PAPER),
    Published("Llama-2-70B", (8192, 80, 28672, 32000, 4096), 3.32, 3.41, PAPER),
    Published("Llama-3-8B", (4096, 32, 14336, 128256, 8192), 6.14, 6.54, DEEPCOMPRESSOR),
    Published("Llama-3-70B", (8192, 80, 28672, 128256, 8192), 2.85, 3.20, DEEPCOMPRESSOR),
    Published("Llama-3.1-8B", (4096, 32, 14336, 128256, 131072), 6.24, 6.60, DEEPCOMPRESSOR),
    Published("Llama-3.1-70B", (8192, 80, 28672, 128256, 131072), 2.81, 3.22, DEEPCOMPRESSOR),
    Published("Mistral-7B", (4096, 32, 14336, 32000, 32768), 5.25, 5.37, DEEPCOMPRESSOR),
    Published("Yi-34B", (7168, 60, 20480, 64000, 4096), 4.60, 4.67, DEEPCOMPRESSOR),
)


class Perplexities(Protocol):
    """What evals.likelihood.Comparison measured."""

    @property
    def perplexity_reference(self) -> float: ...
    @property
    def perplexity_quantized(self) -> float: ...


def published_for(
    config: Mapping[str, Any], protocol: Windows, measured: Mapping[str, Perplexities]
) -> list[dict[str, Any]]:
    """The rows of a model with this config.json, as plain numbers, each with what was measured.

    measured: text -> perplexities. Only those of WikiText-2 by the classic protocol can be held
    against a row; without them its `measured_...` are None.
    """
    shape = tuple(config.get(key) for key in (*SHAPE, "max_position_embeddings"))
    own = measured.get(TEXT) if protocol == PROTOCOLS["classic"] else None
    return [
        {
            **{k: v for k, v in asdict(row).items() if k != "shape"},
            "text": TEXT,
            "protocol": "classic",
            "scheme": SCHEME,
            "measured_reference": own.perplexity_reference if own else None,
            "measured_quantized": own.perplexity_quantized if own else None,
        }
        for row in ROWS
        if row.shape == shape
    ]


def told(row: Mapping[str, Any]) -> str:
    """A row of `published_for` for people."""
    words = (
        f"Published for {row['model']} on {TEXT}: {row['reference']:.2f} at 16 bits, "
        f"{row['quantized']:.2f} with {row['scheme']} ({row['source']})"
    )
    own = row["measured_reference"]
    if own is None:
        return f"{words}. To compare: --text {TEXT} --protocol classic."
    if abs(own / row["reference"] - 1) > SAME:
        return (
            f"{words}. This reference measures {own:.2f}: it has that shape and is another model, "
            "or another text was read."
        )
    measured = f"{own:.2f}, the checkpoint {row['measured_quantized']:.2f}"
    return f"{words}; this reference measures {measured}."
