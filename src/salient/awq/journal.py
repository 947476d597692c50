"""The journal of a run: a header that says what is made, then one line a finished block.

A block is done when its line is there. A header that disagrees with the run at hand is an error
naming the field and both values, so that a resumed run can only be the same run.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from salient.core.errors import CheckpointError, ResumeMismatch
from salient.formats.writer import disk_full_errors, write_text

NAME = "journal.jsonl"


class Journal:
    """The journal in the unfinished folder `folder`; opened once at a time by one process."""

    def __init__(self, folder: Path, header: dict[str, Any], *, fresh: bool):
        self.folder = folder
        with disk_full_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        try:
            self._file = self._begin(header, fresh=fresh)
        except BaseException:
            self._lock.close()
            raise

    def _begin(self, header: dict[str, Any], *, fresh: bool) -> IO[str]:
        folder = self.folder
        if fresh:
            for path in folder.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        path = folder / NAME
        lines = _whole_lines(path)
        if lines:
            self._compare(lines[0], header)
        self.done: list[dict[str, Any]] = lines[1:]
        text = "".join(json.dumps(line) + "\n" for line in ([header, *self.done]))
        write_text(path, text)  # a line cut short by a crash is gone
        return path.open("a")

    def _compare(self, found: dict[str, Any], wanted: dict[str, Any]) -> None:
        for field in wanted | found:  # in the order of `wanted`: what the user gives comes first
            if found.get(field) != wanted.get(field):
                raise ResumeMismatch(
                    f"The unfinished run in {self.folder} has {field} = {found.get(field)!r}, "
                    f"this one has {wanted.get(field)!r}. Give the same arguments to go on, "
                    "--fresh to start over, or another -o."
                )

    def finish_block(self, entry: dict[str, Any]) -> None:
        """Write the line that says a block is done. Its files must be on disk."""
        with disk_full_errors(self.folder):
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self.done.append(entry)

    def close(self) -> None:
        """Let go of the folder."""
        self._file.close()
        self._lock.close()


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            lines.append(json.loads(line) if line.endswith("\n") else None)
        except ValueError:
            lines.append(None)
    whole = lines[: lines.index(None)] if None in lines else lines
    return [line for line in whole if line is not None]


def _lock(folder: Path) -> IO[str]:
    handle = (folder / ".lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise CheckpointError(
            f"Another run is writing to {folder}. Wait for it, end it, or give another output with "
            "-o."
        ) from None
    return handle
