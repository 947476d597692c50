"""Reads an engine's log, of any size: facts of the engine, and ranked findings."""

import codecs
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from salient.core.errors import RequestError
from salient.core.input_files import UnfitFile, open_input
from salient.core.progress import Progress, silent
from salient.diagnose.finding import Finding, ranked
from salient.diagnose.rule import Match, Place
from salient.diagnose.steps import ALWAYS, UNKNOWN_SERVER, ServerFacts

from .line_prefix import LogLine, read_line, read_lines
from .log_facts import ANCHORS, REQUESTS, LogFacts, Phase, phase_of, take_facts
from .log_rules import judge_facts, judge_root
from .root_cause import RootCause, engine_of, find_root
from .scanner import CHUNK, AnchorMatch, Scanner
from .signature import SIGNATURES, Signature
from .structure import CONTEXT_ANCHORS, StructureReader

MAX_PLACES = 3  # lines of a signature that become evidence
MAX_LINES = 50  # numbers of lines of a signature that are compared with those of a crash
MAX_TEXT = 240  # characters of a line of evidence
MIN_TEXT_SHARE = 0.7  # of the first MiB
OWN_PIPES = re.compile(r"/proc/\d+/fd/")
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as Windows PowerShell redirects
_CONTROLS = bytes(set(range(0x20)) - {7, 8, 9, 10, 12, 13, 27})
_CALM_LINE = re.compile(rb"[^\n]{0,120}?\b(?:INFO|DEBUG)\b")
_OF_TRACEBACK = (b"Traceback (most", b'File "')
_CONSEQUENCES = {row.id for row in SIGNATURES if row.consequence}
_BY_ANCHOR: dict[str, list[Signature]] = {}
for _row in SIGNATURES:
    _BY_ANCHOR.setdefault(_row.anchor, []).append(_row)


@dataclass
class LogReading:
    """The facts of the engine, and the findings: worst first, causes before consequences.

    root: the first failure that is not an echo of another one
    served: whether the server answers where the log ends
    recognized: whether any line has the prefix or the form of a log's lines
    last_line: the last line with text
    """

    facts: LogFacts
    findings: list[Finding]
    root: RootCause | None = None
    served: bool = False
    recognized: bool = False
    last_line: str = ""


@dataclass
class _SignatureMatch:
    """A signature that matched. groups: of its first line   lines: numbers of the first ones"""

    groups: dict[str, str]
    count: int = 0
    places: list[Place] = field(default_factory=list[Place])
    lines: list[int] = field(default_factory=list[int])


@dataclass
class LogReader:
    """An incremental reader.

    name: the log's name in evidence   known: of the server, where the log does not state it
    """

    name: str
    known: ServerFacts = UNKNOWN_SERVER
    facts: LogFacts = field(default_factory=LogFacts)
    matches: dict[str, _SignatureMatch] = field(default_factory=dict[str, _SignatureMatch])
    structure: StructureReader = field(default_factory=StructureReader)

    def __post_init__(self) -> None:
        self.scanner = Scanner((*_BY_ANCHOR, *ANCHORS), around=CONTEXT_ANCHORS)
        self._served_after: int | None = None
        self._ended_at: int | None = None
        self._recognized = False

    def feed(self, data: bytes) -> None:
        """Read more of the log. An unfinished line waits for its end, within bounds."""
        for hit in self.scanner.feed(data):
            self._take(hit)
        self._take_context()

    def close(self) -> None:
        """Read a last line without an end."""
        for hit in self.scanner.close():
            self._take(hit)
        self._take_context()

    def reading(self) -> LogReading:
        """Facts and findings so far."""
        facts, failures = self.facts, self.structure.failures
        facts.lines, facts.bytes = self.scanner.lines, self.scanner.size
        facts.requests = self.scanner.hits.get(REQUESTS, 0)
        facts.engine = facts.engine or engine_of(failures)
        root = find_root(failures, served_after=self._served_after, ended_at=self._ended_at)
        facts.traceback = any(one.frames for one in failures)
        facts.exception = root.cause.label if root else ""
        findings = self._findings(root, facts.server.or_else(self.known))
        served = self._served_after is not None
        recognized = bool(self._recognized or facts.engine or findings or failures)
        last_line = read_line(self.scanner.last_line).whole
        return LogReading(facts, ranked(findings), root, served, recognized, last_line)

    def _findings(self, root: RootCause | None, server: ServerFacts) -> list[Finding]:
        rows = [row for row in SIGNATURES if row.id in self.matches and row.conditions.hold(server)]
        findings = [self._finding(row, root, server) for row in rows]
        findings += judge_facts(self.facts, {row.id for row in rows}, server=server)
        if root and not self._explains(rows, root):
            findings += judge_root(root, self.facts, self.name, self._served_after)
        ended = root is None and self._ended_at is not None
        if ended or any(f.level == "error" and f.id not in _CONSEQUENCES for f in findings):
            findings = [replace(f, level="note") if f.id in _CONSEQUENCES else f for f in findings]
        return findings

    def _explains(self, rows: list[Signature], root: RootCause) -> bool:
        """Whether one of the rows states the root cause, or an error near it."""
        lines = {line for one in root.outer.chain() for line in (one.first, one.last)}
        return any(
            lines.intersection(self.matches[row.id].lines)
            or (
                row.level == "error"
                and (not row.consequence or root.vague)
                and any(map(root.near, self.matches[row.id].lines))
            )
            for row in rows
        )

    def _take_context(self) -> None:
        for number, raw in self.scanner.context:
            if _is_calm(raw) and not self.structure.open:
                self._recognized = True
                continue
            for line in read_lines(raw):
                self.structure.take(number, line)
                self._recognized |= line.prefixed
        self.scanner.context.clear()

    def _take(self, hit: AnchorMatch) -> None:
        for line in read_lines(hit.text):
            self._take_line(hit, line)

    def _take_line(self, hit: AnchorMatch, line: LogLine) -> None:
        take_facts(self.facts, hit.anchor, line)
        self._take_phase(phase_of(hit.anchor, line), hit.line)
        for row in _BY_ANCHOR.get(hit.anchor, ()):
            groups = row.match(line)
            if groups is None:
                continue
            match = self.matches.setdefault(row.id, _SignatureMatch(groups))
            match.count += 1
            if len(match.lines) < MAX_LINES:
                match.lines.append(hit.line)
            if len(match.places) < MAX_PLACES:
                match.places.append((f"{self.name}:{hit.line}", _shorten(line.text)))
            if row.conditions is ALWAYS:
                break  # the first row of an anchor takes the line

    def _take_phase(self, phase: Phase, line: int) -> None:
        if phase == "start":
            self._served_after = self._ended_at = None
        elif phase == "serving":
            self._served_after, self._ended_at = line, None
        elif phase == "end":
            self._ended_at = self._ended_at or line

    def _finding(self, row: Signature, root: RootCause | None, server: ServerFacts) -> Finding:
        match = self.matches[row.id]
        # Where only some lines of an anchor were sampled, the others are assumed to be like them.
        hits, sampled = self.scanner.hits[row.anchor], self.scanner.sampled[row.anchor]
        count = max(round(hits * match.count / sampled), len(match.places))
        groups = {name: _shorten(text) for name, text in match.groups.items()}
        values = self.facts.values() | groups
        finding = row.finding(Match(match.places, values, count=count), server)
        if root and not row.consequence and any(map(root.near, match.lines)):
            finding = replace(finding, rank=finding.rank // 10)
        return finding


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
    wide, read, utf16 = False, 0, codecs.getincrementaldecoder("utf-16")(errors="replace")
    try:
        while data := stream.read(CHUNK):
            wide = data[:2] in _UTF16 if read == 0 else wide
            read += len(data)
            data = utf16.decode(data).encode() if wide else data
            if not reader.scanner.size:
                _check_text(data, name)
            reader.feed(data)
            progress(read, size or 0, f"reading {name}")
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


def _is_calm(raw: bytes) -> bool:
    """Whether a line states no failure, unless it belongs to a traceback."""
    return bool(_CALM_LINE.match(raw)) and not any(text in raw for text in _OF_TRACEBACK)


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
        # A pipe of this process, as <(kubectl logs ...), has its writer.
        return path.open("rb") if OWN_PIPES.match(os.path.realpath(path)) else open_input(path)
    except UnfitFile as error:
        raise RequestError(f"{path} {error.reason}. Give a log file, or - for stdin.") from None
    except FileNotFoundError:
        raise RequestError(
            f"There is no file {path}. Give the log's path, or - for stdin."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"{path} cannot be read: {reason}.") from None


def _check_text(data: bytes, name: str) -> None:
    """Raise RequestError for a first chunk that is compressed or binary."""
    if data[:2] == b"\x1f\x8b" or data[:4] == b"\x28\xb5\x2f\xfd":
        raise RequestError(f"{name} is compressed. Unpack it: zcat {name} | salient doctor --log -")
    text = data.decode("utf-8", errors="ignore").encode().translate(None, _CONTROLS)
    if len(text) >= len(data) * MIN_TEXT_SHARE and data.count(0) * 100 <= len(data):
        return
    if any(anchor.encode() in data for anchor in (*_BY_ANCHOR, *ANCHORS, *CONTEXT_ANCHORS)):
        return
    raise RequestError(
        f"{name} is not text: {len(data) - len(text):,} of its first {len(data):,} bytes are "
        "binary. Give the engine's log as text."
    )


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
