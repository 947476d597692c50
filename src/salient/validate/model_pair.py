"""The checkpoint and its reference, opened and checked to be the same model."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from salient.core.carried_files import TOKENIZER_FILES, find_carried, matches
from salient.core.content_digest import folder_digests
from salient.core.devices import find_device, free_memory
from salient.core.errors import CheckpointError, ResourceError
from salient.core.evidence import RunEvidence, read_evidence
from salient.core.options import StrPath
from salient.formats.checkpoint import Checkpoint, fingerprint, open_checkpoint
from salient.models.model_folder import model_folder
from salient.models.skeleton import Skeleton
from salient.models.source_model import SourceModel, source_model
from salient.runtime.load_engine import EngineOptions, LoadedEngine, load

_log = logging.getLogger("salient")
# The files next to the weights that decide what is answered
ANSWERING = (*TOKENIZER_FILES, "*config.json", "additional_chat_templates/*")
ROOM = 1.1  # of a model's files, what its weights take when it runs


@dataclass(frozen=True)
class ModelSummary:
    """What a model is; scheme, format and bits: None if it is not quantized."""

    architecture: str
    blocks: int
    width: int
    vocabulary: int
    scheme: str | None
    format: str | None
    bits_per_weight: float | None


@dataclass
class PairMember:
    """One of the two models.

    name: as the user gave it   role: "checkpoint" or "reference"
    model: streams it in float32, dequantized, so that figures are the codes' and no kernel's
    """

    name: str
    role: Literal["checkpoint", "reference"]
    model: SourceModel

    @property
    def source(self) -> Checkpoint:
        """Its files."""
        return self.model.source

    @property
    def skeleton(self) -> Skeleton:
        """Its blocks, read one at a time."""
        return self.model.skeleton

    @property
    def companions(self) -> Path:
        """The folder with its tokenizer and chat template."""
        return self.model.companions.folder

    @property
    def label(self) -> str:
        """Its name, and its adapter's."""
        adapter = self.model.adapter
        return self.name if adapter is None else f"{self.name} with the adapter {adapter.name}"

    @cached_property
    def fingerprint(self) -> str:
        """The key of its results in the cache: all files that its answers depend on."""
        files = sorted(self.companion_digests(ANSWERING).items())
        adapter = self.model.adapter.digest if self.model.adapter else ""
        key = f"{fingerprint(self.source)}{adapter}{files}"
        return hashlib.sha256(key.encode()).hexdigest()

    def companion_digests(self, patterns: Iterable[str]) -> dict[str, str]:
        """The digests of the files next to the weights whose names match one of `patterns`."""
        names = [n for n in find_carried(self.companions).files if matches(n, patterns)]
        return folder_digests(self.companions, names)

    @property
    def summary(self) -> ModelSummary:
        source, skeleton, schemes = self.source, self.skeleton, self.source.schemes
        return ModelSummary(
            type(skeleton.model).__name__,
            len(skeleton.blocks),
            skeleton.width,
            skeleton.vocabulary,
            str(schemes) if schemes else None,
            source.format.name if source.format else None,
            source.bits_per_weight,
        )

    def open_engine(self, options: EngineOptions) -> LoadedEngine:
        """The model, whole, to generate with. Raises ResourceError where it has no room."""
        needed = int(self.source.bytes_on_disk * ROOM)
        free = free_memory(find_device(options.device))
        if needed > free:
            raise ResourceError(
                f"The {self.role} {self.name} takes about {needed / 2**30:.1f} GiB to generate "
                f"with, and {free / 2**30:.1f} GiB are free. Measure it on a larger machine: with "
                "the same SALIENT_CACHE its answers are found here."
            )
        return load(self.name, options, self.model.adapter)


@dataclass
class ModelPair:
    """A checkpoint and its reference; `device` is as the user named it."""

    checkpoint: PairMember
    reference: PairMember
    device: str

    @property
    def sides(self) -> tuple[PairMember, PairMember]:
        """The reference, then the checkpoint."""
        return self.reference, self.checkpoint

    @property
    def skeletons(self) -> list[Skeleton]:
        """The two skeletons, the reference's first."""
        return [side.skeleton for side in self.sides]

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each, by role."""
        return {side.role: side.fingerprint for side in self.sides}

    @property
    def longest_context(self) -> int | None:
        """Positions that the model was made for, None if its config does not say."""
        return self.reference.skeleton.longest_context


def open_pair(
    checkpoint: str, reference: str, device: str, adapter: StrPath | None = None
) -> ModelPair:
    """Open both. Raises SalientError where they are not the same model, or one cannot be read."""
    where = find_device(device)
    sources = [open_checkpoint(model_folder(name)) for name in (reference, checkpoint)]
    if sources[0].format is not None:
        raise CheckpointError(
            f"--reference {reference} is quantized itself. Give the 16-bit model it was made from."
        )
    try:
        evidence = read_evidence(sources[1].folder)
    except CheckpointError:  # the attribution stage reports it
        evidence = None
    drop = tuple(evidence.dropped) if evidence else ()
    pair = ModelPair(
        PairMember(checkpoint, "checkpoint", source_model(sources[1], device=where)),
        PairMember(reference, "reference", source_model(sources[0], adapter, drop, device=where)),
        device,
    )
    reference_skeleton, checkpoint_skeleton = pair.skeletons
    checkpoint_skeleton.head = reference_skeleton.head  # it says what both answer with
    if evidence is not None:
        _check_adapter(pair, evidence)
    _check_same_model(pair)
    return pair


def refuse_unquantized(pair: ModelPair) -> None:
    """Raises CheckpointError for a "checkpoint" without codes: its figures would all be perfect."""
    side, source = pair.checkpoint, pair.checkpoint.source
    modules = (name.rpartition(".")[0] for name in source.files)
    if any(source.is_quantized(module) for module in modules):
        return
    declared = "declares a quantization but " * (source.format is not None)
    raise CheckpointError(
        f"{side.name} {declared}has no 4-bit codes: it is a 16-bit model, and nothing about it can "
        f"fail. Give the quantized checkpoint; salient evaluate {side.name} --reference "
        f"{pair.reference.name} compares two 16-bit models."
    )


def _check_adapter(pair: ModelPair, evidence: RunEvidence) -> None:
    """Refuse a reference without the adapter that the checkpoint was made with, or with another.

    A reference that is not the run's model may have the adapter merged in its files.
    """
    own, adapter = evidence.run.adapter, pair.reference.model.adapter
    if own == (adapter.digest if adapter else None):
        return
    checkpoint, reference = pair.checkpoint.name, pair.reference.name
    same_files = fingerprint(pair.reference.source) == evidence.run.model
    name = evidence.adapter.name if evidence.adapter else "of a name that it does not record"
    origin = f"{checkpoint} was made of {evidence.model} with the adapter {name} ({str(own)[:12]})"
    if own and adapter:
        raise CheckpointError(
            f"{origin}, but --adapter {adapter.folder} is another one ({adapter.digest[:12]}). "
            "Give the adapter that it was made with."
        )
    if own and same_files:
        raise CheckpointError(
            f"{origin}, but --reference {reference} is that model without it: two models would be "
            "compared. Add --adapter FOLDER with that adapter."
        )
    if own:
        _log.warning(
            "warning: %s. --reference %s should be that model with the adapter merged.",
            origin,
            reference,
        )
    elif same_files:
        raise CheckpointError(
            f"{checkpoint} was made of {reference} without an adapter. Leave out --adapter "
            f"{adapter and adapter.folder}, or quantize the model with it."
        )


def _check_same_model(pair: ModelPair) -> None:
    for what in ("architecture", "blocks", "width", "vocabulary"):
        reference, checkpoint = (getattr(side.summary, what) for side in pair.sides)
        if checkpoint != reference:
            raise CheckpointError(
                f"{pair.checkpoint.name} and {pair.reference.name} are not the same model: {what} "
                f"is {checkpoint} in the checkpoint and {reference} in the reference. Give the "
                "model that the checkpoint was made from."
            )
