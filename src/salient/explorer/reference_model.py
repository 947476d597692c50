"""The 16-bit model that a checkpoint was made from, if it is on this machine; never downloaded."""

from dataclasses import dataclass
from pathlib import Path

from salient.core.errors import SalientError
from salient.core.evidence import RunEvidence
from salient.core.system import cache_folder
from salient.formats.checkpoint import Checkpoint, fingerprint, open_checkpoint
from salient.shapes.resolve import DEMO_NAME

UNVERIFIED = (
    "The checkpoint's salient.json is of an older version without digests, so it cannot be "
    "verified that the checkpoint was made from this model."
)
HOW = "Start the server with `--reference MODEL`, the 16-bit model's folder or name."


@dataclass(frozen=True)
class ReferenceSource:
    """A 16-bit model. label: what it is   remark: a warning about it, or ''"""

    folder: Path
    label: str
    remark: str = ""


def find_source(
    folder: Path, evidence: RunEvidence | str, reference: tuple[str, Path] | None
) -> ReferenceSource | str:
    """The source of the checkpoint in `folder`, or the reason why it is not available.

    reference: name and folder of the user's reference, which comes first
    """
    if reference is not None:
        return _from_reference(*reference, evidence)
    if isinstance(evidence, str):
        return f"The 16-bit model that this checkpoint was made from is not known. {HOW}"
    if evidence.run.adapter is not None:
        return f"A LoRA adapter was merged into the model before it was quantized. {HOW}"
    name = Path(evidence.model).name  # untrusted, so only its last part is used
    places = [folder.parent / name, Path.cwd() / name] if name else []
    for candidate in (*places, cache_folder() / DEMO_NAME):
        checkpoint = _open(candidate)
        if checkpoint is not None and not evidence.source_files:
            return ReferenceSource(candidate, f"{candidate.name}, a 16-bit model", UNVERIFIED)
        if checkpoint is not None and fingerprint(checkpoint) == evidence.run.model:
            label = f"{evidence.model}, the model this checkpoint was made from"
            return ReferenceSource(candidate, label)
    return (
        f"The 16-bit model {evidence.model!r} that this checkpoint was made from is not next to "
        f"it, and this page downloads nothing. {HOW}"
    )


def _from_reference(name: str, folder: Path, evidence: RunEvidence | str) -> ReferenceSource | str:
    checkpoint = _open(folder)
    if checkpoint is None:
        return f"The reference {name!r} is not a readable 16-bit model. {HOW}"
    remark = ""
    if not isinstance(evidence, str) and not evidence.source_files:
        remark = UNVERIFIED
    elif not isinstance(evidence, str) and fingerprint(checkpoint) != evidence.run.model:
        remark = (
            f"{name} is not byte for byte the model that this checkpoint was made from, so "
            "comparisons with the checkpoint's own codes may mislead."
        )
    return ReferenceSource(folder, f"{name}, the reference", remark)


def _open(folder: Path) -> Checkpoint | None:
    if not (folder / "config.json").is_file():
        return None
    try:
        checkpoint = open_checkpoint(folder)
    except SalientError:
        return None
    return checkpoint if checkpoint.format is None else None
