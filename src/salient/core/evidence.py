"""salient.json: what a run of `salient quantize` measured, the evidence next to its checkpoint.

The records are also the lines of the run's journal. They are written and read here and nowhere
else. A checkpoint may be anybody's, so `read_evidence` refuses what Salient does not write.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from .carried_files import matches
from .content_digest import (
    CHANGED,
    Digests,
    TensorDigests,
    changed_files,
    changed_tensors,
    has_seal,
    seal_of,
)
from .errors import CheckpointError, ModelError
from .model_files import read_json
from .printable import printable
from .records import Bounds, Count, FormatFault, Name, Positive, from_json, to_json

EVIDENCE_FILE = "salient.json"
MEASURED = ("*.safetensors", "*.index.json", "config.json")  # the files that its figures are of
SHOWN_TENSORS = 4  # changed tensors that a message names
SCHEMA = 1  # of the file; a change that older readers misread raises it

Loss = Annotated[float, Bounds(0)]
Exponent = Annotated[float, Bounds(-8, 8)]
Share = Annotated[float, Bounds(0, 1)]
Samples = Annotated[int, Bounds(1, 2**24)]


@dataclass(frozen=True)
class RunHeader:
    """What a run is: it must be equal for an unfinished run to resume.

    model, adapter, calibration: SHA-256 digests of files and of token ids
    computed_in: dtype and device of the computation
    calibration_mix: share of the samples that are of `calibration_texts`; the others are built-in
    self_text: whether a quarter of them are the model's own answers
    source_files: file of the model's folder -> SHA-256: config, weights, tokenizer and all that is
        copied; of the adapter's as adapter/NAME. Empty in the files of older versions
    effort: how much work the rounding was given (awq/effort.py)
    """

    salient: Name
    model: Name
    adapter: Name | None
    scheme: Name
    format: Name
    dtype: Name
    skip: tuple[Name, ...]
    calibration_texts: Name
    samples: Samples
    sequence_length: Samples
    calibration: Name
    computed_in: Name = ""
    calibration_mix: Share = 1.0
    self_text: bool = False
    source_files: Digests = field(default_factory=dict[str, str])
    effort: Name = "fast"


@dataclass(frozen=True)
class LayerEvidence:
    """Linears of a kind: mean output error, relative to the output: plain rounding, as written."""

    count: Positive
    plain: Loss
    awq: Loss


@dataclass(frozen=True)
class GroupEvidence:
    """Shared inputs of a kind (`count` of them; experts are many and alike).

    readers: the linears' names, with a star for an expert's number
    improved: how many use AWQ; the others fell back to plain rounding
    exponents: of the scale of each input (awq/search.py), of activations and of weights
    """

    readers: tuple[Name, ...]
    absorber: Name | None
    proof_error: float | None
    refusal: Name
    count: Count
    improved: Count = field(metadata={"key": "kept"})
    exponents: tuple[tuple[Exponent, Exponent], ...]
    rounding: dict[str, Count]
    layers: dict[str, LayerEvidence]


@dataclass(frozen=True)
class ReconstructionEvidence:
    """What learning a block's roundings did (awq/block_reconstruction.py).

    before, after: loss of the block's output on held-out tokens
    step: of the best iterate, 0 if the first stays; changed: codes that differ from the first
    refusal: why the block cannot be learned, '' if it can
    """

    before: Loss
    after: Loss
    step: Count
    changed: Count
    refusal: str = ""


@dataclass(frozen=True)
class BlockEvidence:
    """A block: relative error of its output by plain rounding and as written.

    left_at_16_bits: unquantized linears -> why
    borrowed_statistics: experts that too few tokens reached -> how many
    largest_activation: of any linear's input or output, and of the block's, on the calibration
        tokens
    reconstruction: None if it was not tried
    no_gradients: why a run with gradients did without them here, '' if it did not
    """

    block: Name
    error_plain: Loss
    error_awq: Loss
    fell_back: bool
    left_at_16_bits: dict[str, str]
    borrowed_statistics: dict[str, Count]
    groups: tuple[GroupEvidence, ...]
    largest_activation: Loss | None = None
    no_gradients: str = ""
    reconstruction: ReconstructionEvidence | None = None


@dataclass(frozen=True)
class CalibrationEvidence:
    """The calibration tokens: how many were used and dropped, and of which kinds of text."""

    texts: Name
    tokens_used: Count
    tokens_dropped: Count
    tokens_by_kind: dict[str, Count]
    heldout_samples: Count = field(metadata={"key": "samples_held_out"})


@dataclass(frozen=True)
class LogitsFigures:
    """A checkpoint's answers compared with the reference's (models/output_head.py).

    Perplexities are 1 for models that answer with labels, scores or embeddings.
    """

    tokens: Count
    kl: float
    top1: float
    perplexity_reference: float
    perplexity_quantized: float
    perplexity_increase: float
    cosine: float | None = None


@dataclass(frozen=True)
class HeldoutEvidence:
    """The whole model by plain rounding and as written, on tokens that the search does not see."""

    plain: LogitsFigures
    awq: LogitsFigures


@dataclass(frozen=True)
class SizeEvidence:
    """Bytes of the source's and of the checkpoint's weight files."""

    before: Count
    after: Count


@dataclass(frozen=True)
class AdapterEvidence:
    """The LoRA adapter that was merged before quantizing.

    name: of its folder   digest: SHA-256 of its weights and config
    files: its tokenizer, chat template and the like, where they are not those of the model
    vocabulary: rows of the embedding, where it changed them
    """

    name: Name
    digest: Name
    files: tuple[str, ...] = ()
    vocabulary: Count | None = None


Point = tuple[Annotated[float, Bounds(0, 64)], Loss]


@dataclass(frozen=True)
class AllocationEvidence:
    """The formats that `--bits-per-weight` gave to the linears (awq/mixed_precision.py).

    budget, allowed, symmetric: what the options say
    bits_per_weight: of all linears that it gave formats to, 16-bit ones included
    predicted_kl: of rounding without feedback, in nats a token: for comparison with the others here
    formats: linear, or a block's experts -> scheme, or 16bit
    uniform: format -> bits a weight and predicted KL where all linears have it
    curve: the same from the fewest bits on, as more are spent
    """

    budget: Annotated[float, Bounds(0, 64)]
    allowed: tuple[Name, ...]
    symmetric: bool
    bits_per_weight: Annotated[float, Bounds(0, 64)]
    predicted_kl: Loss
    formats: dict[str, Name]
    uniform: dict[str, Point]
    curve: tuple[Point, ...]


@dataclass(frozen=True)
class RunEvidence:
    """The whole of salient.json.

    left_out: the source's tensors that the checkpoint omits
    dropped: pattern of `--drop` -> those of them that it names
    float32: parameters that stay in float32
    answers: what the model answers with (models/output_head.py)
    mtp: layers that predict further tokens and stay in 16 bits
    untied: parameters that the config ties and the files store with values of their own
    not_copied: files of the source folder that the checkpoint lacks -> why
    adapter: the adapter that was merged, if one was
    dequantized_source: the format of a source that was quantized; '' for a 16-bit one
    allocation: the formats of the linears, where `--bits-per-weight` gave them
    files: file of the checkpoint -> SHA-256, of all but README.md and this one; empty in the files
        of older versions, which cannot be verified
    tensors: tensor of the checkpoint -> the first digits of the SHA-256 of its bytes, by which a
        changed weight file's damage is located; empty in the files of older versions
    seal: SHA-256 of the file with an empty seal
    """

    run: RunHeader
    model: Name
    scheme_reason: Name
    bits_per_weight: float
    left_at_16_bits: dict[str, str]
    left_out: tuple[str, ...]
    calibration: CalibrationEvidence
    heldout: HeldoutEvidence
    bytes: SizeEvidence
    blocks: tuple[BlockEvidence, ...]
    dtype_reason: str = ""
    float32: tuple[Name, ...] = ()
    untied: tuple[Name, ...] = ()
    mtp: tuple[Name, ...] = ()
    not_copied: dict[str, str] = field(default_factory=dict[str, str])
    answers: str = "tokens"
    adapter: AdapterEvidence | None = None
    dequantized_source: str = ""
    allocation: AllocationEvidence | None = None
    schema: Annotated[int, Bounds(SCHEMA, SCHEMA)] = SCHEMA
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    files: Digests = field(default_factory=dict[str, str])
    tensors: TensorDigests = field(default_factory=dict[str, str])
    seal: Name = ""

    @property
    def source_files(self) -> dict[str, str]:
        """File of the source -> SHA-256."""
        return self.run.source_files


@dataclass(frozen=True)
class GroupTotals:
    """Over blocks: shared inputs, those with a proven scale group, those that use AWQ."""

    inputs: int
    proven: int
    improved: int


def group_totals(blocks: Iterable[BlockEvidence]) -> GroupTotals:
    """Sum the shared inputs of all blocks."""
    groups = [group for block in blocks for group in block.groups]
    return GroupTotals(
        sum(g.count for g in groups),
        sum(g.count for g in groups if g.absorber is not None),
        sum(g.improved for g in groups),
    )


def evidence_text(evidence: RunEvidence) -> str:
    """The text of salient.json."""
    return printable(json.dumps(to_json(evidence), indent=2, ensure_ascii=False)) + "\n"


def sealed(evidence: RunEvidence) -> RunEvidence:
    """`evidence` with the seal of its text."""
    return replace(evidence, seal=seal_of(evidence_text(replace(evidence, seal=""))))


def read_evidence(folder: Path) -> RunEvidence | None:
    """The evidence in a checkpoint's folder; None if it has none.

    Raises CheckpointError for a file that Salient did not write or that was changed, naming the
    field and no path: the explorer shows it to browsers.
    """
    path = folder / EVIDENCE_FILE
    if not path.is_file():
        return None
    try:
        evidence = from_json(RunEvidence, read_json(path))
        text = path.read_bytes().decode()
    except FormatFault as fault:
        raise CheckpointError(
            f"{EVIDENCE_FILE} is not as Salient writes it: {fault.where} {fault.why}. Download it "
            "again, or quantize the model again."
        ) from fault
    except (ModelError, OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{EVIDENCE_FILE} is no readable JSON. Download it again.") from error
    digests = evidence.seal or evidence.files or evidence.source_files  # older files have none
    if digests and not has_seal(text, evidence.seal):
        raise CheckpointError(
            f"{EVIDENCE_FILE} was changed after Salient wrote it: its seal does not match its "
            "content. Download it again, or quantize the model again."
        )
    return evidence


@dataclass(frozen=True)
class ChangedFiles:
    """Files of a checkpoint that are not as its salient.json has them: name -> what they are.

    tensors: of changed weight files, those whose bytes changed
    reason: why salient.json itself cannot be used, or ''
    """

    files: dict[str, str] = field(default_factory=dict[str, str])
    tensors: tuple[str, ...] = ()
    reason: str = ""

    @property
    def measured(self) -> bool:
        """Whether the figures of salient.json are of other weights, or another config."""
        return any(matches(name, MEASURED) for name in self.files)

    @property
    def note(self) -> str:
        """What has changed, and what to do; '' for nothing."""
        if not self.files:
            return self.reason
        names = ", ".join(f"{name} {what}" for name, what in self.files.items())
        return (
            f"The checkpoint is not as Salient wrote it: {names}. Fetch it again; or, if that is "
            "on purpose, remove salient.json and measure it again with salient validate."
        )


def find_changed(folder: Path) -> ChangedFiles:
    """What has changed in the checkpoint in `folder`; nothing if it has no digests."""
    try:
        evidence = read_evidence(folder)
    except CheckpointError as error:
        return ChangedFiles(reason=str(error))
    return locate_changes(folder, evidence.files, evidence) if evidence else ChangedFiles()


def locate_changes(folder: Path, digests: Mapping[str, str], evidence: RunEvidence) -> ChangedFiles:
    """The files of `digests` that have changed, with the tensors that `evidence` locates it in."""
    files = changed_files(folder, digests)
    altered = [name for name, what in files.items() if what == CHANGED]
    tensors = changed_tensors(folder, altered, evidence.tensors)
    for name, those in tensors.items():
        if those:
            more = f" and {len(those) - SHOWN_TENSORS} more" * (len(those) > SHOWN_TENSORS)
            files[name] = f"{CHANGED} in {', '.join(those[:SHOWN_TENSORS])}{more}"
    return ChangedFiles(files, tuple(name for those in tensors.values() for name in those))
