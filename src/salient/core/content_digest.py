"""SHA-256 of whole files, remembered in the user's cache for as long as a file stays the same; of
stored tensors; and seals of texts.

A file is the same while its real path, size, inode, device and times (in nanoseconds) are; every
write changes the inode's time. A file that changed a moment ago is hashed again at its next use,
because its next change may have the same time. Imports no torch.
"""

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from .errors import ModelError
from .input_files import irregular, open_input
from .model_files import StoredTensor, read_header
from .records import Bounds
from .system import cache_folder

Digest = Annotated[str, Bounds(64, 64)]
Digests = Annotated[dict[str, Digest], Bounds(0, 2**16)]  # path within a folder -> SHA-256
TENSOR_HEX = 16  # digits of a tensor's digest: 64 bits show damage, and a file of them stays small
TensorDigest = Annotated[str, Bounds(TENSOR_HEX, TENSOR_HEX)]
TensorDigests = Annotated[dict[str, TensorDigest], Bounds(0, 2**21)]

SETTLED = 2 * 10**9  # nanoseconds after its last change; the coarsest clock of a file system
MOST_ENTRIES = 2048  # files that the cache remembers
THREADS = 4
STRETCH = 2**20  # bytes of a tensor that are read at once
CHANGED = "has changed"  # what a file is whose digest differs
SEAL = '"seal": "%s"'  # of a JSON text


@dataclass(frozen=True)
class FileState:
    """What changes with a file's content."""

    path: str
    size: int
    modified: int
    changed: int
    inode: int
    device: int

    @staticmethod
    def of(path: Path) -> "FileState":
        """The state of `path`, its links followed. Raises ModelError unless it is a file."""
        if reason := irregular(path):
            raise ModelError(f"{path} {reason}. Put the file itself in its place.")
        status = path.stat()
        real, modified, changed = os.path.realpath(path), status.st_mtime_ns, status.st_ctime_ns
        return FileState(real, status.st_size, modified, changed, status.st_ino, status.st_dev)

    @property
    def settled(self) -> bool:
        """Whether the last change is old enough to differ in time from the next."""
        return abs(time.time_ns() - self.changed) > SETTLED


_remembered: dict[str, tuple[FileState, str]] = {}  # of this process


def file_digest(path: Path) -> str:
    """The SHA-256 of the whole file `path`, in hexadecimal.

    Raises ModelError if it is missing, unreadable or no regular file.
    """
    try:
        state = FileState.of(path)
        remembered, digest = _remembered.get(state.path, (None, ""))
        if remembered == state:
            return digest
        if digest := _recall(state):
            _remembered[state.path] = state, digest
            return digest
        settled = state.settled
        with open_input(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if settled and FileState.of(path) == state:
            _remembered[state.path] = state, digest
            _store(state, digest)
    except OSError as error:
        raise _unreadable(path, error) from error
    return digest


def file_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """The digest of each of `paths`, several at once. Raises ModelError as `file_digest`."""
    files = sorted(set(paths))
    workers = max(1, min(THREADS, os.cpu_count() or 1, len(files)))
    with ThreadPoolExecutor(workers, "digest") as pool:  # hashlib releases the GIL
        return dict(zip(files, pool.map(file_digest, files), strict=True))


def folder_digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The digests of the files `names` in `folder`. Raises ModelError as `file_digest`."""
    digests = file_digests(folder / name for name in names)
    return {path.relative_to(folder).as_posix(): digest for path, digest in digests.items()}


def changed_files(folder: Path, digests: Mapping[str, str]) -> dict[str, str]:
    """The files of `digests`, path in `folder` -> SHA-256, that are not so: name -> what they are.

    The names may be anybody's: nothing outside `folder` is read.
    """
    faults: dict[str, str] = {}
    present: list[str] = []
    for name in digests:
        parts = PurePosixPath(name).parts
        if not parts or "\0" in name or ".." in parts or PurePosixPath(name).is_absolute():
            faults[name] = "is outside the folder"
        elif not os.path.lexists(folder / name):
            faults[name] = "is missing"
        else:
            present.append(name)

    def fault(name: str) -> str:
        try:
            return "" if file_digest(folder / name) == digests[name] else CHANGED
        except ModelError:
            return "cannot be read"

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), "digest") as pool:
        reasons = zip(present, pool.map(fault, present), strict=True)
    faults |= {name: reason for name, reason in reasons if reason}
    return {name: faults[name] for name in digests if name in faults}


def tensor_digests(tensors: Iterable[StoredTensor]) -> dict[str, str]:
    """Name -> SHA-256 of the bytes that the files have of each of `tensors`.

    Raises ModelError as `file_digest`.
    """
    digests: dict[str, str] = {}
    for tensor in tensors:
        digest, left = hashlib.sha256(), tensor.bytes
        try:
            with open_input(tensor.path) as file:
                file.seek(tensor.start)
                while left > 0 and (data := file.read(min(STRETCH, left))):
                    digest.update(data)
                    left -= len(data)
        except OSError as error:
            raise _unreadable(tensor.path, error) from error
        digests[tensor.name] = digest.hexdigest()
    return digests


def short_digests(tensors: Iterable[StoredTensor]) -> dict[str, str]:
    """Name -> the first TENSOR_HEX digits of each digest. Raises ModelError as `file_digest`."""
    return {name: digest[:TENSOR_HEX] for name, digest in tensor_digests(tensors).items()}


def changed_tensors(
    folder: Path, files: Iterable[str], digests: Mapping[str, str]
) -> dict[str, list[str]]:
    """Weight file of `files` -> its tensors that are not as `digests` (name -> short digest) say.

    Only files that are known to differ are read again. A file without a readable header has none.
    """
    changed: dict[str, list[str]] = {}
    for file in files if digests else ():
        if not file.endswith(".safetensors"):
            continue
        try:
            actual = short_digests(read_header(folder / file).values())
        except ModelError:
            continue
        changed[file] = [name for name in actual if digests.get(name) != actual[name]]
    return changed


def seal_of(text: str, previous: str = "") -> str:
    """The seal of a JSON `text` whose field "seal" is empty, in a chain after the seal `previous`.

    It has no key: it shows damage and careless edits, not forgery.
    """
    return text_digest(previous + text)


def has_seal(text: str, seal: str, previous: str = "") -> bool:
    """Whether the JSON `text` is as it was sealed with its field "seal"."""
    return seal_of(text.replace(SEAL % seal, SEAL % ""), previous) == seal


def text_digest(text: str) -> str:
    """The SHA-256 of `text`."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _unreadable(path: Path, error: OSError) -> ModelError:
    reason = error.strerror or error
    return ModelError(f"{path} cannot be read ({reason}). Fetch it again, or make it readable.")


def _entry(state: FileState) -> tuple[Path, str]:
    """The file of the cache that remembers the file of `state`, and what it starts with."""
    name, key = (text_digest(text) for text in (state.path, repr(astuple(state))))
    return cache_folder() / "digests" / name, key


def _line(key: str, digest: str) -> str:
    return f"{key} {digest} {text_digest(f'{key} {digest}')}\n"


def _recall(state: FileState) -> str:
    """The digest that the cache has for a file in `state`, '' for none or a damaged entry."""
    path, key = _entry(state)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = path.read_text("ascii")
        digest = text[65:129]
        return digest if text == _line(key, digest) else ""
    return ""


def _store(state: FileState, digest: str) -> None:
    """Remember `digest`; at most MOST_ENTRIES. A cache that cannot be written remembers nothing."""
    path, key = _entry(state)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = list(path.parent.iterdir())
        if len(entries) >= MOST_ENTRIES:
            for oldest in sorted(entries, key=_last_change)[: MOST_ENTRIES // 8]:
                oldest.unlink(missing_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(_line(key, digest))
        os.replace(file.name, path)


def _last_change(entry: Path) -> int:
    """When `entry` was written, in nanoseconds; 0 if another process has removed it."""
    with contextlib.suppress(OSError):
        return entry.lstat().st_mtime_ns
    return 0
