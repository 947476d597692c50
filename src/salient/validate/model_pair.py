"""The checkpoint and its reference, opened and checked to be the same model."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from salient.core.devices import find_device, free_memory
from salient.core.errors import CheckpointError, ResourceError
from salient.core.evidence import read_evidence
from salient.formats.checkpoint import Checkpoint, fingerprint, open_checkpoint
from salient.models.model_folder import model_folder
from salient.models.skeleton import Skeleton
from salient.models.source_model import source_model
from salient.runtime.load_engine import EngineOptions, LoadedEngine, load

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
    skeleton: streams it in float32, dequantized, so that figures are the codes' and no kernel's
    """

    name: str
    role: Literal["checkpoint", "reference"]
    source: Checkpoint
    skeleton: Skeleton

    @cached_property
    def fingerprint(self) -> str:
        """The key of its results in the cache. A checkpoint's contains the times of its files,
        too: a change of a few scales may escape the fingerprint of the files."""
        of_files = fingerprint(self.source)
        if self.role == "reference":
            return of_files
        times = [path.stat().st_mtime_ns for path in sorted(set(self.source.files.values()))]
        return hashlib.sha256(f"{of_files}{times}".encode()).hexdigest()

    @property
    def summary(self) -> ModelSummary:
        source, skeleton, scheme = self.source, self.skeleton, self.source.scheme
        return ModelSummary(
            type(skeleton.model).__name__,
            len(skeleton.blocks),
            skeleton.width,
            skeleton.vocabulary,
            str(scheme) if scheme else None,
            source.format.name if source.format else None,
            scheme.bits_per_weight if scheme else None,
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
        return load(self.name, options)


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


def open_pair(checkpoint: str, reference: str, device: str) -> ModelPair:
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
    skeletons = [
        source_model(source, drop=dropped, device=where).skeleton
        for source, dropped in zip(sources, (drop, ()), strict=True)
    ]
    skeletons[1].head = skeletons[0].head  # the reference says what both answer with
    pair = ModelPair(
        PairMember(checkpoint, "checkpoint", sources[1], skeletons[1]),
        PairMember(reference, "reference", sources[0], skeletons[0]),
        device,
    )
    _check_same_model(pair)
    return pair


def _check_same_model(pair: ModelPair) -> None:
    for what in ("architecture", "blocks", "width", "vocabulary"):
        reference, checkpoint = (getattr(side.summary, what) for side in pair.sides)
        if checkpoint != reference:
            raise CheckpointError(
                f"{pair.checkpoint.name} and {pair.reference.name} are not the same model: {what} "
                f"is {checkpoint} in the checkpoint and {reference} in the reference. Give the "
                "model that the checkpoint was made from."
            )
