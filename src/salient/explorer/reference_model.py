"""The 16-bit model that a checkpoint was made from, where it is on this machine; never fetched."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from salient.core.errors import SalientError
from salient.core.evidence import RunEvidence
from salient.core.system import cache_folder
from salient.formats.checkpoint import Checkpoint, fingerprint, open_checkpoint
from salient.models.demo import DEMO_NAME

HOW = "Start the server with `--reference MODEL`, the 16-bit model's folder or name."


@dataclass(frozen=True)
class ReferenceSource:
    """A 16-bit model. words: what it is and how it was found   remark: what is odd about it"""

    folder: Path
    words: str
    remark: str = ""


def find_source(
    folder: Path, evidence: RunEvidence | str, given: tuple[str, Path] | None
) -> ReferenceSource | str:
    """The source of the checkpoint in `folder`; in words why it cannot be had.

    given: name and folder of the reference that the user named, taken before any other
    """
    if given is not None:
        return _given(*given, evidence)
    if isinstance(evidence, str):
        return f"The 16-bit model that this checkpoint was made from is not known. {HOW}"
    if evidence.run.adapter is not None:
        return f"A LoRA adapter was merged into the model before it was quantized. {HOW}"
    for place in _places(folder, evidence):
        checkpoint = _opened(place)
        if checkpoint is not None and fingerprint(checkpoint) == evidence.run.model:
            return ReferenceSource(
                place, f"{evidence.model}, the model this checkpoint was made from"
            )
    return (
        f"The 16-bit model {evidence.model!r} that this checkpoint was made from is not beside it, "
        f"and nothing is fetched for this page. {HOW}"
    )


def _given(name: str, folder: Path, evidence: RunEvidence | str) -> ReferenceSource | str:
    checkpoint = _opened(folder)
    if checkpoint is None:
        return f"The reference {name!r} is no 16-bit model whose files can be read. {HOW}"
    if isinstance(evidence, str):
        return ReferenceSource(folder, f"{name}, the reference")
    same = fingerprint(checkpoint) == evidence.run.model
    remark = (
        ""
        if same
        else f"{name} is not byte for byte the model that this checkpoint was made from, so what "
        "is compared with the checkpoint's own codes may mislead."
    )
    return ReferenceSource(folder, f"{name}, the reference", remark)


def _places(folder: Path, evidence: RunEvidence) -> Iterator[Path]:
    """Where the model may lie. The name comes from a file that may be anybody's: its last part."""
    name = Path(evidence.model).name
    if name:
        yield folder.parent / name
        yield Path.cwd() / name
    yield cache_folder() / DEMO_NAME


def _opened(folder: Path) -> Checkpoint | None:
    if not (folder / "config.json").is_file():
        return None
    try:
        found = open_checkpoint(folder)
    except SalientError:
        return None
    return found if found.format is None else None
