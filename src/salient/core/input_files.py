"""Files that anybody may have written: how they are opened, and the bounds of what is read.

A folder of the Hub may hold a FIFO, a link to a device, or a config of 20 GiB. Every reader opens
its files here: only regular files, without waiting, and no more bytes than their kind has. Links
are followed inside their folder and into the Hub's cache only. Imports neither torch nor others'
parsers but Python's own JSON.
"""

import json
import os
import re
import stat
from collections.abc import Iterable
from fnmatch import fnmatchcase
from io import BufferedReader
from pathlib import Path
from typing import Any

from .errors import ModelError
from .records import is_list, is_object

MIB = 2**20
# Name of a file in a model folder -> the most bytes that it has. The first pattern counts. The
# largest on the Hub: an index of 15 MB (Kimi K2), a tokenizer.json of 34 MB (Gemma 3).
MOST_BYTES = (
    ("*.index.json", 128 * MIB),
    ("tokenizer.json", 128 * MIB),
    ("tekken.json", 64 * MIB),
    ("salient.json", 64 * MIB),
    ("vocab.json", 32 * MIB),
    ("*.json", 16 * MIB),
    ("*.jinja", MIB),
    ("vocab*.txt", 32 * MIB),
    ("merges*.txt", 32 * MIB),
    ("*.model", 64 * MIB),
    ("*.tiktoken", 32 * MIB),
)
# Folders inside a model folder whose files Transformers reads, too.
INNER = ("additional_chat_templates", "1_Pooling")
# Of a JSON file: the largest are indexes, and tokenizers of 0.8 million pairs.
MOST_CONTAINERS, MOST_VALUES = 2_500_000, 8_000_000
DEEPEST = 100  # lists and objects in each other; 12 occur
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
SYSTEM = ("/proc/", "/sys/")  # whose files are no files on a disk, and may never end
_TOO_DEEP = f"more than {DEEPEST} lists and objects in each other"
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


class UnfitFile(OSError):
    """A file that is not opened, or not read to its end; its text is the reason."""

    @property
    def reason(self) -> str:
        """The reason, as the end of a sentence that begins with the file's name."""
        return str(self)


def irregular(path: Path) -> str:
    """Why `path` is no regular file, as 'is a pipe (FIFO), ...'; '' if it is one.

    Raises OSError if there is none.
    """
    mode = path.stat().st_mode
    kind = next((name for is_kind, name in KINDS if is_kind(mode)), "")
    if not kind and os.path.realpath(path).startswith(SYSTEM):
        kind = "a file of the system"
    return f"is {kind}, not a regular file" if kind else ""


def open_input(path: Path, most: int | None = None) -> BufferedReader:
    """Open the regular file `path` of at most `most` bytes. Never waits for a writer.

    Raises UnfitFile, and OSError for a file that is absent or not readable.
    """
    reason = irregular(path)
    if not reason:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb")
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            reason = "is no regular file any more"
        elif most is not None and status.st_size > most:
            reason = f"has {status.st_size:,} bytes; at most {most:,} fit"
        else:
            return file
        file.close()
    raise UnfitFile(reason)


def read_input(path: Path, most: int) -> bytes:
    """The bytes of the regular file `path`. Raises as `open_input`."""
    with open_input(path, most) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def most_bytes(name: str) -> int | None:
    """The most bytes of a file called `name` in a model folder, None for a name of no kind."""
    kinds = (most for pattern, most in MOST_BYTES if fnmatchcase(name.lower(), pattern))
    return next(kinds, None)


def parse_json(data: bytes | str, *, half_pairs: bool = False) -> Any:
    """The JSON value in `data`. Raises ValueError for what is no JSON, too deep, or no text.

    half_pairs: whether halves of surrogate pairs pass, for callers that name their field
    """
    text = data if isinstance(data, str) else data.decode("utf-8")
    for count, most, what in (
        (text.count("[") + text.count("{"), MOST_CONTAINERS, "lists and objects"),
        (text.count(","), MOST_VALUES, "values"),
    ):
        if count > most:
            raise ValueError(f"{count} {what}; at most {most} fit")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > DEEPEST and _may_be_deep(text):
        _check_depth(value)
    if not half_pairs and _HALF_PAIR.search(text):
        _check_text(value)
    return value


def _may_be_deep(text: str) -> bool:
    """Whether the brackets of `text`, those in its strings included, exceed the depth."""
    brackets = text.encode("utf-8", "surrogatepass").translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(DEEPEST):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    return True


def _check_depth(value: object) -> None:
    level: list[Any] = [value] if is_object(value) or is_list(value) else []
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for each in level:
            members: Iterable[Any] = each.values() if is_object(each) else each
            inner += [member for member in members if is_object(member) or is_list(member)]
        if not inner:
            return
        level = inner
    raise ValueError(_TOO_DEEP)


def _check_text(value: object) -> None:
    """Refuse half of a surrogate pair, which is no text: no file could hold it again."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start].encode("ascii", "backslashreplace").decode()
        raise ValueError(f"{half} is half of a surrogate pair, not text") from None


def unsafe_link(path: Path, root: Path) -> str:
    """Why the link `path` in the folder `root` (resolved) is not followed; '' for others.

    Links stay inside the folder, or lead to the blobs of the Hub's cache.
    """
    if not path.is_symlink():
        return ""
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
        return "a link to no file"
    cached = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    return "" if cached or target.is_relative_to(root) else "a link out of the folder"


def check_folder(folder: Path, *, sizes: bool = True) -> None:
    """Check the files of a model folder that a reader opens, by name, before any is opened.

    Without `sizes`, only that they are regular files and no links out of the folder.

    Raises ModelError naming a file that is no regular file, is too large for its kind, or is a link
    out of the folder.
    """
    root = folder.resolve()
    for place in (root, *(root / name for name in INNER)):
        _check_link(place, root)
        for path in place.iterdir() if place.is_dir() else ():
            most = most_bytes(path.name)
            if most is not None or path.name.endswith(".safetensors"):
                _check_entry(path, root, most if sizes else None)


def _check_link(path: Path, root: Path) -> None:
    if reason := unsafe_link(path, root):
        raise ModelError(
            f"{path.name} in {path.parent} is {reason}, which Salient does not follow. Put the "
            "file itself into the folder."
        )


def _check_entry(path: Path, root: Path, most: int | None) -> None:
    _check_link(path, root)
    where = f"{path.name} in {path.parent}"
    if reason := irregular(path):
        raise ModelError(f"{where} {reason}. Do not trust this model folder.")
    size = path.stat().st_size
    if most is not None and size > most:
        raise ModelError(
            f"{where} has {size:,} bytes; a file of this kind has at most {most:,}. Fetch it again."
        )
