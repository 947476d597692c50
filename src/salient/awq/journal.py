"""The journal of a run: a header that defines the run, then one line for what is finished.

A block is finished when its line exists. The line has the digests of the block's file and of the
source's tensors that it was made from, and a seal over itself and all lines before it. A run
resumes after the last line that has its seal and its files; what comes later is written again.
A header that differs from the current run's is an error naming the field and both values, so that
only the same run can resume.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeVar

from salient.core.content_digest import Digests, changed_files, has_seal, seal_of
from salient.core.errors import CheckpointError, ResumeMismatch
from salient.core.evidence import BlockEvidence, RunHeader
from salient.core.records import FormatFault, from_json, is_object, to_json
from salient.formats.writer import disk_full_errors, write_text

NAME = "journal.jsonl"
LISTED = 3  # of many files, how many a warning names


@dataclass(frozen=True)
class HeaderLine:
    """The first line."""

    run: RunHeader
    seal: str = ""


@dataclass(frozen=True)
class JournalLine:
    """A finished block; or with no evidence, a file of tensors outside the blocks.

    files: file of the partial folder -> SHA-256
    source_tensors: tensor of the source -> SHA-256 of its bytes
    """

    evidence: BlockEvidence | None
    files: Digests
    source_tensors: dict[str, str]
    seal: str = ""


Line = TypeVar("Line", HeaderLine, JournalLine)


@dataclass(frozen=True)
class UnfinishedRun:
    """What a journal says: the run, the lines that have their seals, and whether others follow."""

    run: RunHeader
    lines: tuple[JournalLine, ...]
    damaged: bool

    @property
    def source_tensors(self) -> dict[str, str]:
        """The source's tensors of all that is finished -> SHA-256."""
        return {n: digest for line in self.lines for n, digest in line.source_tensors.items()}


def read_journal(folder: Path) -> UnfinishedRun | None:
    """The unfinished run in `folder`, None if there is none.

    Raises ResumeMismatch for a damaged header, or that of an older version.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    first, *rest = path.read_bytes().split(b"\n")
    if not rest:  # cut short by a crash
        return None
    header = _sealed_line(HeaderLine, first, "")
    if header is None:
        raise ResumeMismatch(_unknown_run(folder, first))
    lines, seal = list[JournalLine](), header.seal
    for content in rest[:-1]:
        line = _sealed_line(JournalLine, content, seal)
        if line is None:
            break
        lines.append(line)
        seal = line.seal
    damaged = len(lines) < len(rest) - 1 or bool(rest[-1])
    return UnfinishedRun(header.run, tuple(lines), damaged)


class Journal:
    """The journal in the partial folder `folder`, locked: one process at a time.

    lines: what is finished, the blocks in their order first
    warnings: what was damaged, and is written again

    Raises ResumeMismatch for another run's.
    """

    def __init__(self, folder: Path, header: RunHeader, *, fresh: bool):
        self.folder, self.lines = folder, list[JournalLine]()
        self.warnings: list[str] = []
        with disk_full_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(folder)
        try:
            if fresh:
                self._clear()
            self._resume(header)
            self._file = self._begin(header)
        except BaseException:
            self._lock.close()
            raise

    @property
    def blocks(self) -> list[BlockEvidence]:
        """The evidence of the finished blocks."""
        return [line.evidence for line in self.lines if line.evidence is not None]

    @property
    def files(self) -> dict[str, str]:
        """All finished files -> SHA-256."""
        return {name: digest for line in self.lines for name, digest in line.files.items()}

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name != ".lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _resume(self, header: RunHeader) -> None:
        """Take the lines that have their files."""
        unfinished = read_journal(self.folder)
        if unfinished is None:
            return
        if reason := difference(unfinished.run, header):
            raise ResumeMismatch(
                f"The unfinished run in {self.folder} has {reason}. Pass the same arguments to "
                "resume, --fresh to start over, or another -o."
            )
        self.lines = list(unfinished.lines)
        if unfinished.damaged:
            number = len(self.lines) + 2
            path = self.folder / NAME
            self._drop(len(self.lines), f"Line {number} of {path} is not as it was written")
        self._check_files()

    def _check_files(self) -> None:
        """Drop the first line whose files are not as they were written, and all after it."""
        faults = changed_files(self.folder, self.files)
        for index, line in enumerate(self.lines):
            names = [f"{name} {faults[name]}" for name in line.files if name in faults]
            if names:
                self._drop(index, f"In {self.folder}, {', '.join(names[:LISTED])}")
                return

    def _drop(self, index: int, reason: str) -> None:
        """Drop the lines from `index` on, with a warning."""
        del self.lines[index:]
        finished = f"the first {index} blocks stay" if index else "no block stays"
        self.warnings.append(f"{reason}: {finished}, all after it is written again.")

    def _begin(self, header: RunHeader) -> IO[str]:
        lines, self.lines, self._seal = self.lines, [], ""
        text = self._sealed(HeaderLine(header))[1]
        for line in lines:
            sealed, line_text = self._sealed(replace(line, seal=""))
            self.lines.append(sealed)
            text += line_text
        write_text(self.folder / NAME, text)
        return (self.folder / NAME).open("a")

    def _sealed(self, line: Line) -> tuple[Line, str]:
        """`line` with its seal, and its text."""
        self._seal = seal_of(json.dumps(to_json(line)), self._seal)
        line = replace(line, seal=self._seal)
        return line, json.dumps(to_json(line)) + "\n"

    def append(self, line: JournalLine) -> None:
        """Write the line of what is finished. Its files must be on disk."""
        line, text = self._sealed(line)
        with disk_full_errors(self.folder):
            self._file.write(text)
            self._file.flush()
            os.fsync(self._file.fileno())
        self.lines.append(line)

    def check_files(self) -> None:
        """Raise CheckpointError unless all finished files are as they were written."""
        for name, reason in changed_files(self.folder, self.files).items():
            raise CheckpointError(
                f"{self.folder / name} {reason} since this run wrote it: another program or the "
                "disk changed it. Run the same command again: it resumes and writes it again."
            )

    def close(self) -> None:
        """Close the journal and unlock the folder."""
        self._file.close()
        self._lock.close()


def difference(previous: RunHeader, current: RunHeader) -> str:
    """The first field in which two runs differ, with both values; '' if they are the same."""
    if another := other_source(previous.source_files, current.source_files):
        return another
    old, new = to_json(previous), to_json(current)
    fields = (field for field in new if old[field] != new[field])
    return next((f"{f} = {old[f]!r} there, {new[f]!r} here" for f in fields), "")


def other_source(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """How the files of two sources differ, by their digests; '' if they are the same."""
    if before == now:
        return ""
    if not before:
        return "no digests of its source (it is of an older version of Salient)"
    changed = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    name = next((name for name in changed if name.endswith(".safetensors")), changed[0])
    digests = [f"SHA-256 {d[name][:12]}" if name in d else "absent" for d in (before, now)]
    more = f" and {len(changed) - 1} more files differ" if changed[1:] else " differs"
    return f"another source: {name}{more} ({digests[0]} there, {digests[1]} here)"


def _unknown_run(folder: Path, first: bytes) -> str:
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        value = None
    older = is_object(value) and "run" not in value and "salient" in value
    reason = (
        "was begun by an older version of Salient, which recorded no digests"
        if older
        else f"has a changed {NAME}: its first line, which says what the run is, lacks its seal"
    )
    return (
        f"The unfinished run in {folder} {reason}, so it cannot be verified. Use --fresh to start "
        "over, or another -o."
    )


def _sealed_line(kind: type[Line], content: bytes, previous: str) -> Line | None:
    """The record in a line whose seal follows `previous`; None for a damaged line."""
    try:
        text = content.decode()
        line = from_json(kind, json.loads(text))
    except (ValueError, RecursionError, FormatFault):
        return None
    return line if has_seal(text, line.seal, previous) else None


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
