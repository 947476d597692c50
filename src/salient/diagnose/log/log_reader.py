"""Reads an engine's log, of any size: facts of the engine, and ranked findings."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from salient.core.errors import RequestError
from salient.core.progress import Progress, silent
from salient.diagnose.finding import Finding, ranked
from salient.diagnose.rule import Match, Place
from salient.diagnose.steps import ALWAYS, UNKNOWN_SERVER, ServerFacts

from .line_prefix import read_line
from .log_facts import ANCHORS, REQUESTS, LogFacts, take_facts
from .log_rules import UNKNOWN_ERROR, judge_facts
from .scanner import CHUNK, AnchorMatch, Scanner
from .signature import SIGNATURES, Signature

MAX_PLACES = 3  # lines of a signature that become evidence
MAX_TEXT = 240  # characters of a line of evidence
MIN_TEXT_SHARE = 0.7  # of the first MiB
_CONTROLS = bytes(set(range(0x20)) - {7, 8, 9, 10, 12, 13, 27})
_CONSEQUENCES = {row.id for row in SIGNATURES if row.consequence}
_BY_ANCHOR: dict[str, list[Signature]] = {}
for _row in SIGNATURES:
    _BY_ANCHOR.setdefault(_row.anchor, []).append(_row)


@dataclass
class LogReading:
    """The facts of the engine, and the findings: worst first, causes before consequences."""

    facts: LogFacts
    findings: list[Finding]


@dataclass
class _SignatureMatch:
    """A signature that matched. groups: of its first line"""

    groups: dict[str, str]
    count: int = 0
    places: list[Place] = field(default_factory=list[Place])


@dataclass
class LogReader:
    """An incremental reader.

    name: the log's name in evidence   known: of the server, where the log does not state it
    """

    name: str
    known: ServerFacts = UNKNOWN_SERVER
    facts: LogFacts = field(default_factory=LogFacts)
    matches: dict[str, _SignatureMatch] = field(default_factory=dict[str, _SignatureMatch])

    def __post_init__(self) -> None:
        self.scanner = Scanner((*_BY_ANCHOR, *ANCHORS))

    def feed(self, data: bytes) -> None:
        """Read more of the log. An unfinished line waits for its end, within bounds."""
        for hit in self.scanner.feed(data):
            self._take(hit)

    def close(self) -> None:
        """Read a last line without an end."""
        for hit in self.scanner.close():
            self._take(hit)

    def reading(self) -> LogReading:
        """Facts and findings so far."""
        self.facts.lines, self.facts.bytes = self.scanner.lines, self.scanner.size
        self.facts.requests = self.scanner.hits.get(REQUESTS, 0)
        server = self.facts.server.or_else(self.known)
        rows = [row for row in SIGNATURES if row.id in self.matches and row.conditions.hold(server)]
        ids = {row.id for row in rows}
        findings = [self._finding(row, server) for row in rows]
        findings += judge_facts(self.facts, ids, server=server)
        causes = [f for f in findings if f.level == "error" and f.id not in _CONSEQUENCES]
        if not causes:
            causes = judge_facts(self.facts, ids, (UNKNOWN_ERROR,), server)
            findings += causes
        if causes:
            findings = [replace(f, level="note") if f.id in _CONSEQUENCES else f for f in findings]
        return LogReading(self.facts, ranked(findings))

    def _take(self, hit: AnchorMatch) -> None:
        line = read_line(hit.text)
        take_facts(self.facts, hit.anchor, line)
        for row in _BY_ANCHOR.get(hit.anchor, ()):
            groups = row.match(line)
            if groups is None:
                continue
            match = self.matches.setdefault(row.id, _SignatureMatch(groups))
            match.count += 1
            if len(match.places) < MAX_PLACES:
                match.places.append((f"{self.name}:{hit.line}", _shorten(line.text)))
            if row.conditions is ALWAYS:
                break  # the first row of an anchor takes the line

    def _finding(self, row: Signature, server: ServerFacts) -> Finding:
        match = self.matches[row.id]
        # Where only some lines of an anchor were sampled, the others are assumed to be like them.
        hits, sampled = self.scanner.hits[row.anchor], self.scanner.sampled[row.anchor]
        count = max(round(hits * match.count / sampled), len(match.places))
        groups = {name: _shorten(text) for name, text in match.groups.items()}
        return row.finding(Match(match.places, self.facts.values() | groups, count=count), server)


def read_log(
    path: str | Path, *, known: ServerFacts = UNKNOWN_SERVER, progress: Progress = silent
) -> LogReading:
    """Read a log of vLLM or SGLang; "-" is standard input.

    known: of the server, where the log does not state it   progress: in bytes
    Raises RequestError for a file that is missing, unreadable or not a log.
    """
    if str(path) == "-":
        return read_stream(sys.stdin.buffer, "stdin", size=None, known=known, progress=progress)
    with _open(Path(path).expanduser()) as stream:
        size = os.fstat(stream.fileno()).st_size
        name = Path(path).name
        return read_stream(stream, name, size=size, known=known, progress=progress)


def read_stream(
    stream: BinaryIO,
    name: str,
    *,
    size: int | None,
    known: ServerFacts = UNKNOWN_SERVER,
    progress: Progress = silent,
) -> LogReading:
    """Read a log from an open stream. size: total bytes, if known.

    Raises RequestError for a stream that is empty or not a log.
    """
    reader = LogReader(name, known)
    try:
        while data := stream.read(CHUNK):
            if not reader.scanner.size:
                _check_text(data, name)
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

    A file that is truncated or replaced is read again from its start. Ends after `idle_s` seconds
    without new bytes; never if None. Raises RequestError if there is no such file at first.
    """
    path = Path(path).expanduser()
    stream = _open(path)
    reader, reported, quiet = LogReader(path.name), set[str](), 0.0
    try:
        while True:
            if data := stream.read(CHUNK):
                quiet = 0.0
                reader.feed(data)
            elif rotated := _open_if_rotated(path, stream):
                stream.close()
                stream = rotated
                reader.close()
                reader.scanner.restart()
            else:
                ended = idle_s is not None and quiet >= idle_s
                if ended:
                    reader.close()
                for finding in reader.reading().findings:
                    if finding.id not in reported:
                        reported.add(finding.id)
                        yield finding
                if ended:
                    return
                time.sleep(poll_s)
                quiet += poll_s
    finally:
        stream.close()


def _open_if_rotated(path: Path, stream: BinaryIO) -> BinaryIO | None:
    """The file at `path` if it is another one than `stream`, or was truncated."""
    try:
        now, then = path.stat(), os.fstat(stream.fileno())
        if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino) and now.st_size >= stream.tell():
            return None
        return path.open("rb")
    except OSError:  # moved away, and not yet created again
        return None


def _open(path: Path) -> BinaryIO:
    try:
        if path.is_dir():
            raise RequestError(f"{path} is a folder. Give the log file in it.")
        return path.open("rb")
    except FileNotFoundError:
        raise RequestError(
            f"There is no file {path}. Give the log's path, or - for stdin."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{path} cannot be read: {reason}.") from None


def _check_text(data: bytes, name: str) -> None:
    """Raise RequestError for a first chunk that is compressed, UTF-16 or binary."""
    if data[:2] == b"\x1f\x8b" or data[:4] == b"\x28\xb5\x2f\xfd":
        raise RequestError(f"{name} is compressed. Unpack it: zcat {name} | salient doctor --log -")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RequestError(f"{name} is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 {name}")
    text = data.decode("utf-8", errors="ignore").encode().translate(None, _CONTROLS)
    if len(text) >= len(data) * MIN_TEXT_SHARE and data.count(0) * 100 <= len(data):
        return
    if any(anchor.encode() in data for anchor in (*_BY_ANCHOR, *ANCHORS)):
        return
    raise RequestError(
        f"{name} is not text: {len(data) - len(text):,} of its first {len(data):,} bytes are "
        "binary. Give a log of vLLM or SGLang."
    )


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
