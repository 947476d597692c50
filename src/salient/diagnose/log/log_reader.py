"""The log doctor: gigabytes of an engine's log -> what it says of itself, and ranked findings."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from salient.core.errors import RequestError
from salient.core.progress import Progress, silent
from salient.diagnose.finding import Evidence, Finding, ranked

from .fact_patterns import ANCHORS, REQUESTS, read_facts
from .line_prefix import read_line
from .log_facts import LogFacts
from .log_rules import judged, unknown_error
from .scanner import CHUNK, AnchorMatch, Scanner
from .signature import Signature
from .signatures import SIGNATURES

PLACES = 3  # lines kept as evidence
WORDS = 240  # letters of a line kept as evidence
TEXT_LEAST = 0.7  # part of the first MiB that must be text
_CONTROLS = bytes(set(range(0x20)) - {7, 8, 9, 10, 12, 13, 27})
_ROWS: dict[str, list[Signature]] = {}
for _row in SIGNATURES:
    _ROWS.setdefault(_row.anchor, []).append(_row)


@dataclass
class LogReading:
    """What a log says: facts of the engine, and findings, worst and first causes first."""

    facts: LogFacts
    findings: list[Finding]


@dataclass
class _SignatureMatch:
    """A signature that matched. groups: of its first line"""

    groups: dict[str, str]
    count: int = 0
    evidence: list[Evidence] = field(default_factory=list)


@dataclass
class LogReader:
    """A log as far as it was fed. name: what evidence calls it"""

    name: str
    facts: LogFacts = field(default_factory=LogFacts)
    seen: dict[str, _SignatureMatch] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.scanner = Scanner((*_ROWS, *ANCHORS))

    def feed(self, data: bytes) -> None:
        """Take more of the log. An unfinished line waits for its end, within bounds."""
        for hit in self.scanner.feed(data):
            self._take(hit)

    def close(self) -> None:
        """Take a last line without an end."""
        for hit in self.scanner.close():
            self._take(hit)

    def reading(self) -> LogReading:
        """What is known by now."""
        self.facts.lines, self.facts.bytes = self.scanner.lines, self.scanner.size
        self.facts.requests = self.scanner.seen.get(REQUESTS, 0)
        found = [self._finding(row) for row in SIGNATURES if row.id in self.seen]
        found += judged(self.facts, set(self.seen))
        consequences = {row.id for row in SIGNATURES if row.consequence}
        causes = [f for f in found if f.level == "error" and f.id not in consequences]
        if not causes and (unknown := unknown_error(self.facts, set(self.seen))):
            causes = [unknown]
            found.append(unknown)
        if causes:  # what only tells of an error is a note beside the error
            found = [replace(f, level="note") if f.id in consequences else f for f in found]
        return LogReading(self.facts, ranked(found))

    def _take(self, hit: AnchorMatch) -> None:
        line = read_line(hit.text)
        read_facts(self.facts, hit.anchor, line)
        for row in _ROWS.get(hit.anchor, ()):
            groups = row.match(line)
            if groups is None:
                continue
            seen = self.seen.setdefault(row.id, _SignatureMatch(groups))
            seen.count += 1
            if len(seen.evidence) < PLACES:
                where = f"{self.name}:{hit.line}"
                seen.evidence.append(Evidence(where, _shortened(line.text)))

    def _finding(self, row: Signature) -> Finding:
        seen = self.seen[row.id]
        looked = self.scanner.looked(row.anchor)
        # Where only some lines of an anchor were looked at, the others are like them.
        count = round(self.scanner.seen[row.anchor] * seen.count / looked)
        words = self.facts.words() | {k: _shortened(v) for k, v in seen.groups.items()}
        return row.finding(words, tuple(seen.evidence), count)


def read_log(path: str | Path, *, progress: Progress = silent) -> LogReading:
    """Read a log of vLLM or SGLang; "-" is standard input.

    progress: in bytes.
    Raises RequestError where there is no such file, it cannot be read, or it is no log.
    """
    if str(path) == "-":
        return read_stream(sys.stdin.buffer, "stdin", size=None, progress=progress)
    with _opened(Path(path).expanduser()) as stream:
        size = os.fstat(stream.fileno()).st_size
        return read_stream(stream, Path(path).name, size=size, progress=progress)


def read_stream(
    stream: BinaryIO, name: str, *, size: int | None, progress: Progress = silent
) -> LogReading:
    """Read a log from an open stream. size: bytes that will come, where known.

    Raises RequestError where nothing comes, or what comes is no log.
    """
    reader = LogReader(name)
    try:
        while data := stream.read(CHUNK):
            if not reader.scanner.size:
                _refuse_what_is_no_text(data, name)
            reader.feed(data)
            progress(reader.scanner.size, size or 0, f"reading {name}")
    except OSError as error:
        raise RequestError(f"{name} cannot be read: {error.strerror or error}.") from None
    if not reader.scanner.size:
        raise RequestError(
            f"{name} is empty. Start the server with its output in a file: "
            "vllm serve MODEL 2>&1 | tee vllm.log"
        )
    reader.close()
    return reader.reading()


def follow(
    path: str | Path, *, poll_s: float = 0.5, idle_s: float | None = None
) -> Iterator[Finding]:
    """Each finding of a growing log once, when it first appears, as `tail -F` would show lines.

    A file that is cut short or replaced is read anew from its start. Ends after `idle_s` seconds
    without a new byte, never if None. Raises RequestError where there is no such file at first.
    """
    path = Path(path).expanduser()
    stream = _opened(path)
    reader, told, quiet = LogReader(path.name), set[str](), 0.0
    try:
        while True:
            if data := stream.read(CHUNK):
                quiet = 0.0
                reader.feed(data)
            elif again := _rotated(path, stream):
                stream.close()
                stream = again
                reader.close()
                reader.scanner.restart()
                continue
            else:
                if idle_s is not None and quiet >= idle_s:
                    reader.close()
                yield from _news(reader, told)
                if idle_s is not None and quiet >= idle_s:
                    return
                time.sleep(poll_s)
                quiet += poll_s
    finally:
        stream.close()


def _news(reader: LogReader, told: set[str]) -> Iterator[Finding]:
    for finding in reader.reading().findings:
        if finding.id not in told:
            told.add(finding.id)
            yield finding


def _rotated(path: Path, stream: BinaryIO) -> BinaryIO | None:
    """The file anew where the name stands for another one, or it was cut short."""
    try:
        now, then = path.stat(), os.fstat(stream.fileno())
        if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino) and now.st_size >= stream.tell():
            return None
        return path.open("rb")
    except OSError:  # moved away, and not there again yet
        return None


def _opened(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise RequestError(f"{path} is a folder. Give the log file in it.")
        return path.open("rb")
    except FileNotFoundError:
        raise RequestError(
            f"There is no file {path}. Give the log's path, or - for stdin."
        ) from None
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise RequestError(f"{path} cannot be read: {words}.") from None


def _refuse_what_is_no_text(data: bytes, name: str) -> None:
    """Raise RequestError for a first piece that is packed, of 16-bit letters, or no text."""
    if data[:2] == b"\x1f\x8b" or data[:4] == b"\x28\xb5\x2f\xfd":
        raise RequestError(f"{name} is compressed. Unpack it: zcat {name} | salient doctor --log -")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RequestError(f"{name} is UTF-16. Make it UTF-8: iconv -f UTF-16 -t UTF-8 {name}")
    text = data.decode("utf-8", errors="ignore").encode().translate(None, _CONTROLS)
    if len(text) >= len(data) * TEXT_LEAST and data.count(0) * 100 <= len(data):
        return
    if any(anchor.encode() in data for anchor in (*_ROWS, *ANCHORS)):
        return
    raise RequestError(
        f"{name} is no text: {len(data) - len(text):,} of its first {len(data):,} bytes are none. "
        "Give a log of vLLM or SGLang."
    )


def _shortened(text: str) -> str:
    return text if len(text) <= WORDS else text[: WORDS - 3] + "..."
