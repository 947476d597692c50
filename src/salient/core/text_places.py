"""Where the texts of a calibration are: salient.json has their name, this machine's cache the path.

A checkpoint is published, and with it salient.json: paths of the machine that wrote it stay there.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

from .corpus import BUILTIN
from .system import cache_folder
from .text_files import SUFFIXES

_DIGEST = re.compile(r"[0-9a-f]{64}")


def texts_label(name: str) -> str:
    """The name of the texts `name` without the folders of a file; a Hub data set's as it is."""
    path = Path(name).expanduser()
    if name.startswith(("/", "~", ".")) or path.suffix.lower() in SUFFIXES or path.exists():
        return re.split(r"[/\\]", name)[-1]
    return name


def remember_texts(name: str, digest: str) -> None:
    """Note in the cache which file `name` has the calibration `digest`, if it is a file."""
    path = Path(name).expanduser()
    if name != BUILTIN and path.is_file():
        with suppress(OSError):  # of a cache that cannot be written: only this note is lost
            note = cache_folder() / "texts" / digest
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(str(path.resolve()), encoding="utf-8")


def locate_texts(name: str, digest: str) -> str | None:
    """The file with the texts `name` of the calibration `digest`, 'builtin', or None."""
    note = cache_folder() / "texts" / digest
    if name == BUILTIN or os.path.isfile(name):  # no error for names that no file can have
        return name
    if _DIGEST.fullmatch(digest) and os.path.isfile(note):
        with suppress(OSError, UnicodeDecodeError):
            path = note.read_text(encoding="utf-8")
            return path if path.endswith(f"/{texts_label(name)}") and os.path.isfile(path) else None
    return None
