"""Failures in a log by their structure alone, without signatures: tracebacks, exception lines,
signals, usage errors, panics.

Lines of several processes interleave, so each stream (container, process, rank) is parsed apart. A
line without a stream continues the traceback that was open last: SGLang and mutilated logs name the
process in a traceback's first line only.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from salient.diagnose.tables import read_toml

from .line_prefix import LogLine

MAX_FAILURES = 400  # the first ones, and as many of the last
MAX_FRAMES = 200
MAX_STREAMS = 256
MAX_MESSAGE = 600
CONTINUED = 6  # lines of a message after its first

Kind = Literal["exception", "usage", "killed", "crashed", "native", "fatal", "logged", "cut"]

_HEADER = re.compile(r"[^'\"]*(?:Traceback \(most recent call last\)|ray::\S+\(\) \(pid=)")
_FRAMES = (
    re.compile(r'(?:│ *)?File "(?P<path>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?'),
    re.compile(r"│ (?P<path>/\S+\.py):(?P<line>\d+) in (?P<function>[\w.<>]+)"),  # Rich
    # Jupyter
    re.compile(
        r"(?:File )?(?P<path>[^\s:]+\.pyx?)(?::(?P<line>\d+))?,? in (?P<function>[\w.<>]+)\("
    ),
)
_CHAINS = (
    (re.compile(r"The above exception was the direct cause of the following"), "cause"),
    (re.compile(r"During handling of the above exception"), "context"),
)
_NAME = r"(?:[A-Za-z_]\w*\.)*_?[A-Z]\w*"
_TYPICAL = (
    r"(?:Error|Exception|Exit|Interrupt|Failed|Failure|Timeout|OutOfResources|Disconnect|Refused"
    r"|Unavailable|NotFound|Unsupported|Mismatch|ExceptionGroup|Abort|Empty|Full|Fault)"
)
_MODULE_NAME = r"(?:[a-z_]\w*\.)+(?:[a-z_]\w*\.)*(?:_?[A-Z]\w*|error|timeout|herror|gaierror)"
# After frames any name counts; alone, a typical one, or one with its module.
_AFTER_FRAMES = re.compile(rf"(?P<name>{_NAME}|{_MODULE_NAME})(?:\(\w+\))?(?:: ?(?P<message>.*))?$")
_ALONE = re.compile(
    rf"(?P<name>(?:[A-Za-z_]\w*\.)*(?:Exception(?:Group)?|OutOfResources|\w{{2,}}{_TYPICAL}(?![a-z])\w*)"
    rf"|{_MODULE_NAME}(?=:))(?:\(\w+\))?(?:: ?(?P<message>.*)|$)"
)
_REPR = re.compile(
    rf"(?:[\w ,.'-]{{0,80}}: ?|[\w ]{{0,60}}exception=)?<?(?P<name>{_NAME}{_TYPICAL})"
    r"\((?P<quote>['\"])(?P<message>.*)(?P=quote),?\)+[>.]?$"
)
_INLINE = re.compile(
    rf"[^'\"]*?(?:\b[Ee]rror|[Ee]xception|[Ff]ailed|[Cc]rash\w*|[Cc]ause\w*)\b[^'\"]*?[\s:(]"
    rf"(?P<name>{_NAME}(?:Error|Exception))(?:: |\(['\"])(?P<message>.+)"
)
_NOISE = re.compile(r"[\s^~\-=*#.|│╭╰─╮╯+>]*$|\"\"\"$")
_ASSERT = re.compile(r"\bassert\b")
_LOUD = ("ERROR", "CRITICAL")
_CALM = ("INFO", "DEBUG", "WARNING")


@dataclass(frozen=True)
class Frame:
    """A line of a traceback. place: its number in the log, and text   code: the line under it"""

    path: str
    line: int
    function: str
    place: tuple[int, str]
    code: str = ""


@dataclass(eq=False)
class Failure:
    """Something that went wrong, at a place of the log.

    name, message: of an exception; of another kind the message alone
    first, last: its lines   stated, text: the number and the text of the line that states it
    level, process, source: of that line; level is "" for what a program printed itself
    frames: outermost first
    cause: the exception that it followed from, by `link`: "cause" or "context" (while handling it)
    ignored: whether Python itself says that it does not matter
    """

    kind: Kind
    name: str
    message: str
    first: int
    last: int
    stated: int
    text: str
    level: str = ""
    process: str = ""
    source: str = ""
    frames: list[Frame] = field(default_factory=list[Frame])
    cause: "Failure | None" = None
    link: str = ""
    ignored: bool = False

    @property
    def label(self) -> str:
        """Name and message on one line."""
        return ": ".join(part for part in (self.name, self.message) if part) or self.text

    def chain(self) -> "Iterator[Failure]":
        """This exception, then its causes."""
        failure: Failure | None = self
        while failure:
            yield failure
            failure = failure.cause


@dataclass(frozen=True)
class CrashLine:
    """A row of structure.toml. next: whether the message is on the next line"""

    kind: Kind
    anchors: tuple[str, ...]
    pattern: str
    next: bool = False

    @cached_property
    def regex(self) -> re.Pattern[str]:
        return re.compile(self.pattern)


CRASH_LINES = [
    CrashLine(**row | {"anchors": tuple(row["anchors"])})
    for row in read_toml(Path(__file__).with_name("structure.toml")).values()
]
_ANCHORS = {
    "Traceback (most", 'File "', "Error", "Exception", "ERROR", "CRITICAL", "FATAL",
    *(anchor for row in CRASH_LINES for anchor in row.anchors),
}  # fmt: skip
# Literal texts of the lines that `StructureReader` must see; none is part of another.
CONTEXT_ANCHORS = sorted(
    anchor for anchor in _ANCHORS if not any(one in anchor for one in _ANCHORS - {anchor})
)


@dataclass
class ProcessLines:
    """The traceback of one process while it is read. head: its first line; None: none is open"""

    head: LogLine | None = None
    first: int = 0
    frames: list[Frame] = field(default_factory=list[Frame])
    previous: Failure | None = None  # the last exception, until something else follows
    link: str = ""
    continued: int = 0  # lines that may still belong to the message of `previous`
    ignored: bool = False
    native: Failure | None = None  # waits for its message


@dataclass
class StructureReader:
    """Reads lines in their order, with gaps.

    failures: complete ones, by their last lines   seen: lines with a known prefix
    """

    first: list[Failure] = field(default_factory=list[Failure])
    latest: deque[Failure] = field(default_factory=lambda: deque[Failure](maxlen=MAX_FAILURES))
    _streams: dict[str, ProcessLines] = field(default_factory=dict[str, ProcessLines])
    _open_stream: str = ""

    @property
    def open(self) -> bool:
        """Whether a traceback waits for its exception."""
        return any(stream.head for stream in self._streams.values())

    @property
    def failures(self) -> list[Failure]:
        """All failures, and the tracebacks whose exception is not in the log."""
        cut = [self._cut(stream) for stream in self._streams.values() if stream.head]
        return [*self.first, *self.latest, *filter(None, cut)]

    def take(self, number: int, line: LogLine) -> None:
        """Read a line; most state nothing."""
        if not line.text:
            return
        stream = self._stream_of(line)
        if _HEADER.match(line.text):
            self._open(stream, number, line)
            return
        if frame := _read_frame(line.text, number):
            self._add_frame(stream, frame, number, line)
            return
        link = next((link for regex, link in _CHAINS if regex.search(line.text)), "")
        if link:
            stream.link = link
            return
        if "Exception ignored in" in line.text:
            stream.ignored = True
            return
        self._take_statement(stream, number, line)

    def _take_statement(self, stream: ProcessLines, number: int, line: LogLine) -> None:
        if failure := self._exception(stream, number, line):
            self._close(stream, failure)
        elif stream.head and stream.frames and (line.indent or _same_origin(stream.head, line)):
            self._add_code(stream, line)
        elif stream.native and not stream.native.message:
            stream.native.message = line.text.removeprefix("what():").strip()[:MAX_MESSAGE]
            stream.native = None
        elif self._continues(stream, line):
            self._extend(stream, number, line)
        else:
            stream.continued = 0
            self._single_line(stream, number, line)

    def _stream_of(self, line: LogLine) -> ProcessLines:
        if len(self._streams) > MAX_STREAMS:
            self._streams = {key: one for key, one in self._streams.items() if one.head}
        own = self._streams.setdefault(line.stream, ProcessLines())
        if line.stream or own.head or line.level in _CALM:
            return own
        other = self._streams.get(self._open_stream)
        return other if other and other.head else own

    def _open(self, stream: ProcessLines, number: int, line: LogLine) -> None:
        if stream.frames and (cut := self._cut(stream)):
            self._record(cut)
        if not stream.link:
            stream.previous = None
        stream.head, stream.first, stream.frames = line, number, []
        stream.continued = 0
        self._open_stream = line.stream

    def _add_frame(self, stream: ProcessLines, frame: Frame, number: int, line: LogLine) -> None:
        if not stream.head:
            self._open(stream, number, line)
        stream.frames.append(frame)
        if len(stream.frames) > MAX_FRAMES:
            del stream.frames[MAX_FRAMES // 2]

    def _add_code(self, stream: ProcessLines, line: LogLine) -> None:
        last = stream.frames[-1]
        if not last.code and not _NOISE.match(line.text):
            stream.frames[-1] = Frame(last.path, last.line, last.function, last.place, line.text)

    def _exception(self, stream: ProcessLines, number: int, line: LogLine) -> Failure | None:
        """The exception that the line states."""
        match, text = None, line.text.lstrip(".")
        if stream.head and line.indent <= stream.head.indent + 1:
            match = _AFTER_FRAMES.match(text)
        elif line.level in ("INFO", "DEBUG"):
            return None
        if match is None and (line.prefixed or line.indent < 2):
            match = _ALONE.match(text) or _REPR.match(text)
            match = match if match is None or match["message"] or line.prefixed else None
        if match is None and line.level in (*_LOUD, "") and not line.indent:
            match = _INLINE.match(text)
        if match is None:
            return None
        message = (match["message"] or "").strip()
        failure = _failure("exception", number, line, message, match["name"])
        if stream.head:
            failure.frames, failure.first = stream.frames, stream.first
            failure.process = failure.process or stream.head.process or _rank(stream.head)
            failure.cause, failure.link = (
                (stream.previous, stream.link) if stream.link else (None, "")
            )
        return failure

    def _close(self, stream: ProcessLines, failure: Failure) -> None:
        """End the traceback with its exception."""
        failure.ignored = stream.ignored
        before = stream.previous
        if before and stream.continued and before.message.endswith(("raised:", "error:")):
            failure.cause, before.cause, before.link = before.cause, failure, "cause"
        else:
            self._record(failure)
            stream.previous = failure
        stream.head, stream.frames, stream.link, stream.ignored = None, [], "", False
        stream.continued = CONTINUED

    def _continues(self, stream: ProcessLines, line: LogLine) -> bool:
        before = stream.previous
        if not before or not stream.continued or before.level != line.level:
            return False
        return before.source == line.source and not _NOISE.match(line.text)

    def _extend(self, stream: ProcessLines, number: int, line: LogLine) -> None:
        """More lines of an exception's message: all where they are indented, else the first."""
        before = stream.previous
        stream.continued -= 1
        if before and (line.indent or not before.message or before.message.endswith(":")):
            before.message = f"{before.message} {line.text}".strip()[:MAX_MESSAGE]
            before.last = number

    def _single_line(self, stream: ProcessLines, number: int, line: LogLine) -> None:
        for row in CRASH_LINES if line.level not in _CALM else ():
            if match := row.regex.search(line.text):
                groups = match.groupdict()
                message = groups.get("message") or groups.get("message2") or ""
                failure = _failure(row.kind, number, line, message, groups.get("name") or "")
                if row.next and stream.native and not groups.get("name"):
                    stream.native.message = message
                    return
                stream.native = failure if row.next else None
                self._record(failure)
                return
        if line.level in _LOUD and not line.indent and len(line.text.split()) > 1:
            self._record(_failure("logged", number, line, line.text))

    def _cut(self, stream: ProcessLines) -> Failure | None:
        """A traceback without its exception."""
        head = stream.head
        if head is None:
            return None
        failure = _failure("cut", stream.first, head, "")
        failure.frames, failure.cause, failure.link = stream.frames, stream.previous, stream.link
        if stream.frames:
            failure.last = stream.frames[-1].place[0]
        return failure

    def _record(self, failure: Failure) -> None:
        if failure.link and failure.cause in self.first:
            self.first.remove(failure.cause)
        elif failure.link and failure.cause in self.latest:
            self.latest.remove(failure.cause)
        (self.first if len(self.first) < MAX_FAILURES else self.latest).append(failure)


def _failure(kind: Kind, number: int, line: LogLine, message: str, name: str = "") -> Failure:
    return Failure(
        kind, name, message[:MAX_MESSAGE], number, number, number, line.text,
        level=line.level, process=line.process or _rank(line), source=line.source,
    )  # fmt: skip


def _read_frame(text: str, number: int) -> Frame | None:
    for regex in _FRAMES:
        if match := regex.match(text):
            line, function = match["line"] or "0", match["function"] or ""
            return Frame(match["path"], int(line[:9]), function.strip(), (number, text))
    return None


def _rank(line: LogLine) -> str:
    """SGLang's name of a rank, in the brackets of a time."""
    match = re.match(r"\[\d{4}-[^\]]*? ((?:DP|TP|PP|EP)\d[^\]]*)\]", line.whole)
    return match[1] if match else ""


def _same_origin(head: LogLine | None, line: LogLine) -> bool:
    return head is not None and bool(line.source) and head.source == line.source
