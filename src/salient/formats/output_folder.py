"""Where a run writes: the name of its folder, whether it can be written, and the final move.

An unfinished run is in `OUT.partial` next to `OUT`, or within an empty `OUT` that cannot be
renamed over, such as a mount of a container.
"""

import os
import shutil
import stat
import tempfile
from dataclasses import replace
from pathlib import Path

from salient.core.content_digest import folder_digests, short_digests
from salient.core.errors import CheckpointError
from salient.core.evidence import EVIDENCE_FILE, RunEvidence, evidence_text, sealed
from salient.core.model_files import stored_tensors
from salient.core.source_card import CARD

from .writer import sync, write_text

INNER = ".partial"
ANOTHER = "Set another output with -o."
_KINDS = ((stat.S_ISREG, "a file"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))


def model_name(folder: Path) -> str:
    """The name of the model in `folder`: of the repository for a snapshot in the Hub's cache."""
    last = folder.name in ("", "..")
    path = folder.resolve() if last else Path(os.path.abspath(folder))
    for place in (path, path.resolve()):
        home = place.parent.parent.name
        if place.parent.name == "snapshots" and home.startswith("models--"):
            return home.rpartition("--")[2]
    return path.name or "model"


def write_evidence(evidence: RunEvidence, folder: Path) -> RunEvidence:
    """Write `evidence` into `folder` with the digests of its files and tensors; what is written.

    Files that others update have no digest.
    """
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = folder_digests(folder, (name for name in names if name not in (CARD, EVIDENCE_FILE)))
    tensors = short_digests(stored_tensors(folder).values())
    evidence = sealed(replace(evidence, files=files, tensors=tensors))
    write_text(folder / EVIDENCE_FILE, evidence_text(evidence))
    return evidence


def partial_folder(output: Path) -> Path:
    """The folder of the unfinished run that becomes `output`."""
    parent = output.absolute().parent
    inside = output.is_dir() and (os.path.ismount(output) or not os.access(parent, os.W_OK))
    return output / INNER if inside else output.with_name(output.name + INNER)


def is_vacant(output: Path) -> bool:
    """Whether nothing is at `output`, or an empty folder."""
    if not output.exists():
        return True
    return output.is_dir() and {p.name for p in output.iterdir()} <= {INNER, "lost+found"}


def check_output(output: Path, source: Path) -> Path:
    """`output` as it is written to, its links followed, after a trial of a folder and a rename.

    Leaves nothing behind. Raises CheckpointError naming what is there or why it cannot be written.
    """
    try:
        if "\0" in str(output):
            raise ValueError("its name has a null character")
        if output.is_symlink() and not output.exists():
            raise CheckpointError(
                f"{output} is a link to {os.readlink(output)}, which does not exist. {ANOTHER}"
            )
        place = output.resolve() if output.is_symlink() else output
        if place.exists() and not place.is_dir():
            mode = place.stat().st_mode
            kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")
            raise CheckpointError(f"{output} is {kind}, not a folder. {ANOTHER}")
        if place.is_dir() and source.resolve().is_relative_to(place.resolve()):
            raise CheckpointError(f"{output} holds the model {source} itself. {ANOTHER}")
        partial = partial_folder(place)
        if os.path.lexists(partial) and not partial.is_dir():
            raise CheckpointError(f"{partial} is in the way: it is no folder. {ANOTHER}")
        _try_to_write(partial)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{output} cannot be written ({reason}). {ANOTHER}") from error
    return place


def _try_to_write(partial: Path) -> None:
    """Create, rename and remove a folder where `partial` will be."""
    home = next(path for path in partial.absolute().parents if path.exists())
    trial = Path(tempfile.mkdtemp(prefix=".salient-", dir=partial if partial.is_dir() else home))
    renamed = trial.with_name(f"{trial.name}-renamed")
    try:
        trial.rename(renamed)
    finally:
        for folder in (trial, renamed):
            if folder.is_dir():
                folder.rmdir()


def publish(folder: Path, output: Path, partial: Path) -> None:
    """Move the complete checkpoint `folder` in `partial` to `output`, in whose place it comes."""
    if partial.parent == output:
        for path in sorted(output.iterdir()):
            if path != partial and path.name != "lost+found":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in sorted(folder.iterdir(), key=lambda path: path.name == EVIDENCE_FILE):
            path.rename(output / path.name)  # the evidence last: it marks the folder as complete
        sync(output)
        return
    if output.exists():
        shutil.rmtree(output)
    folder.rename(output)
    sync(output.parent)
