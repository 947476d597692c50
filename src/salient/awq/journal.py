"""The journal of a run: a header that defines the run, then one line for each finished block.

A block is finished when its line exists. A header that differs from the current run's is an error
naming the field and both values, so that only the same run can resume.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from salient.core.errors import CheckpointError, ResumeMismatch
from salient.core.evidence import BlockEvidence, RunHeader
from salient.core.records import from_json, to_json
from salient.core.text_places import texts_label
from salient.formats.writer import disk_full_errors, write_text

NAME = "journal.jsonl"
TEXTS = "calibration_texts"


class Journal:
    """The journal in the partial folder `folder`, locked: one process at a time.

    blocks: evidence of the finished blocks
    """

    def __init__(self, folder: Path, header: RunHeader, *, fresh: bool):
        self.folder = folder
        with disk_full_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        try:
            self._file = self._begin(header, fresh=fresh)
        except BaseException:
            self._lock.close()
            raise

    def _begin(self, header: RunHeader, *, fresh: bool) -> IO[str]:
        folder = self.folder
        if fresh:
            for path in folder.iterdir():
                if path.name != ".lock":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        path = folder / NAME
        lines = _whole_lines(path)
        if lines:
            self._compare(lines[0], to_json(header))
        self.blocks = [from_json(BlockEvidence, line) for line in lines[1:]]
        text = "".join(json.dumps(to_json(line)) + "\n" for line in (header, *self.blocks))
        write_text(path, text)  # drops a line cut short by a crash
        return path.open("a")

    def _compare(self, previous: dict[str, Any], current: dict[str, Any]) -> None:
        if isinstance(texts := previous.get(TEXTS), str):
            previous = previous | {TEXTS: texts_label(texts)}  # older ones have its folders
        for field in current | previous:  # in the order of `current`
            if previous.get(field) != current.get(field):
                raise ResumeMismatch(
                    f"The unfinished run in {self.folder} has {field} = {previous.get(field)!r}, "
                    f"this one has {current.get(field)!r}. Pass the same arguments to resume, "
                    "--fresh to start over, or another -o."
                )

    def finish_block(self, block: BlockEvidence) -> None:
        """Write the line of a finished block. Its files must be on disk."""
        with disk_full_errors(self.folder):
            self._file.write(json.dumps(to_json(block)) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        self.blocks.append(block)

    def close(self) -> None:
        """Close the journal and unlock the folder."""
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
            f"Another run is writing to {folder}. Wait for it, stop it, or set another output with "
            "-o."
        ) from None
    return handle
