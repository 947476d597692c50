"""The receipt: one JSON document, sealed."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from salient.core.content_digest import has_seal, seal_of
from salient.core.errors import RequestError
from salient.core.input_files import parse_json, read_input
from salient.core.printable import printable
from salient.core.records import Bounds, Count, FormatFault, Name, from_json, to_json
from salient.validate.likelihood.stratum_figures import Estimate, StratumFigures

SCHEMA = 1
MOST_BYTES = 2**28  # of a receipt


@dataclass(frozen=True)
class NoiseFloor:
    """The reference against itself, computed in another way: what is below is not measurable.

    computed: how   kl: mean KL of the two   top1: share of other preferred tokens
    log_perplexity: |log(PPL / PPL)|   kl_shift: change of the checkpoint's own mean KL
    """

    computed: Name
    positions: Count
    kl: float
    kl_max: float
    top1: float
    log_perplexity: float
    kl_shift: float


@dataclass(frozen=True)
class ModelRecord:
    """One of the two models. name: as it was typed   digest: of config.json and all weights"""

    name: Name
    digest: Name
    architecture: Name
    format: Name | None
    scheme: Name | None
    bits_per_weight: float | None
    bytes: Count
    adapter: Name | None = None


@dataclass(frozen=True)
class PanelRecord:
    """The tokens. name: as it was typed   requested: --positions"""

    name: Name
    digest: Name
    tokenizer: Name
    window: Count
    positions: Count
    documents: Count
    strata: dict[str, Count]
    notes: tuple[Name, ...] = ()
    requested: Count | None = None


@dataclass(frozen=True)
class EngineRecord:
    """What computed the figures; equal records give equal digits."""

    engine: Name
    kernel: Name
    weights: Name
    activations: Name
    accumulation: Name
    device: Name
    processor: Name
    capability: Name
    threads: Count
    batch_tokens: Count
    versions: dict[str, Name]


@dataclass(frozen=True)
class OverlapCheck:
    """Whether text of the panel was calibrated on.

    shingles, shared: runs of `run_length` words in the panel; those in the calibration
    documents: places of the first shared ones
    """

    status: Literal["apart", "overlap", "unknown"]
    calibration: Name
    run_length: Count = field(metadata={"key": "words"})
    shingles: Count
    shared: Count
    documents: tuple[Name, ...] = ()
    reason: Name = ""


@dataclass(frozen=True)
class DocumentSums:
    """Sums over each document of the panel, [documents]; for paired tests."""

    positions: tuple[Count, ...]
    predicted: tuple[Count, ...]
    kl: tuple[float, ...]
    same: tuple[Count, ...]
    log_ratio: tuple[float, ...]


@dataclass(frozen=True)
class PairedTest:
    """Whether the checkpoint is better than another of the same reference on the same panel.

    kl: difference of mean KL, this one minus the other
    p_value: of a sign-flip test over documents
    apart: mean KL of the two checkpoints themselves; None against a receipt
    differs: whether they differ by more than `floor`
    verdict: of this checkpoint
    """

    other: Name
    digest: Name
    documents: Count
    kl: Estimate
    p_value: float
    floor: float
    apart: float | None
    differs: bool
    verdict: Literal["better", "worse", "no difference shown", "not measurable"]


@dataclass(frozen=True)
class Receipt:
    """measurable: whether the checkpoint's KL is above the noise floor"""

    salient: Name
    date: Name
    seconds: float
    checkpoint: ModelRecord
    reference: ModelRecord
    panel: PanelRecord
    engine: EngineRecord
    noise: NoiseFloor
    measurable: bool
    figures: StratumFigures
    strata: dict[str, StratumFigures]
    llama_cpp: dict[str, float]
    calibration: OverlapCheck
    documents: DocumentSums
    paired: PairedTest | None = None
    schema: Annotated[int, Bounds(SCHEMA, SCHEMA)] = SCHEMA
    seal: Name = field(default="")


def receipt_text(receipt: Receipt) -> str:
    """The text of a receipt's file."""
    return printable(json.dumps(to_json(receipt), indent=1, ensure_ascii=False)) + "\n"


def sealed_receipt(receipt: Receipt) -> Receipt:
    """`receipt` with the seal of its text."""
    return dataclasses.replace(
        receipt, seal=seal_of(receipt_text(dataclasses.replace(receipt, seal="")))
    )


def read_receipt(path: Path) -> Receipt:
    """The receipt in the file `path`. Raises RequestError for any other file, or a changed one."""
    try:
        data = read_input(path, MOST_BYTES)
        receipt = from_json(Receipt, parse_json(data))
        text = data.decode("utf-8")
    except (FormatFault, OSError, ValueError) as fault:
        raise RequestError(
            f"{path} is no receipt that can be read ({fault}). Give a file of salient receipt."
        ) from fault
    if not has_seal(text, receipt.seal):
        raise RequestError(
            f"{path} was changed after it was written: its seal does not match its content. Get "
            "the original, or measure the checkpoint again."
        )
    return receipt
