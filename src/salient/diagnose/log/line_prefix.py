"""The message of a log line, without its prefixes: colours, times, levels, process names.

Knows the prefixes of vLLM 0.2 to 0.33, SGLang, llama.cpp, Ollama, TGI, Docker, Kubernetes,
journald, Ray, torchrun and Python's logging, and unwraps messages of pydantic, exceptions
and JSON lines.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from salient.core.records import is_object

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
LEVELS = {
    "D": "DEBUG", "I": "INFO", "W": "WARNING", "WARN": "WARNING", "E": "ERROR", "F": "CRITICAL",
    "ERR": "ERROR", "FATAL": "CRITICAL", "TRACE": "DEBUG",
}  # fmt: skip
_LEVEL = r"(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL|TRACE)"
_CLOCK = r"\d\d-\d\d \d\d:\d\d:\d\d\S*"
_DAY = r"\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d"
# Any number of them precede a message, in any order. One space at most follows a prefix, so that
# the indentation of a traceback stays.
_PREFIXES = (
    # llm-d, loguru: 2026-05-01 12:00:00.123 | ERROR    | vllm.worker:load:12 - message
    rf"{_DAY}\S* \| (?P<loguru>{_LEVEL}) +\| [\w.<>]+:[\w.<>]+:\d+ - ",
    rf"{_DAY}\S*[ \t]?(?:std(?:out|err)\s+[FP]\s)?",  # docker -t, Kubernetes, Python's logging
    # journald, also with ISO times, which the row above has taken
    r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d )?[\w.-]+ [\w.@-]+\[\d+\]: ?",
    r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ [\w.@-]+: ?",
    r"(?P<service>[\w.|/-]+)\s+\| ?|│ ",  # docker compose, pm2, k9s
    r"\[(?P<pod>pod/[^\]]*)\] ?",  # kubectl logs --prefix
    r"\((?P<process>[^()]{0,80}\bpid=\d+[^()]{0,80})\) ?",  # vLLM's processes, Ray's actors
    r"\((?P<torchrun>raylet|autoscaler|gcs_server)[^()]*\) ?",
    rf"\[{_DAY}[^\]]*\] ?",  # SGLang
    rf"(?P<level>{_LEVEL})\b(?::[\w.-]+:[ \t]*|:[ \t]+|:(?=\[)|[ \t]+(?:{_CLOCK}[ \t]?)?)",
    rf"[\w-]{{0,40}}\[(?:(?P<bracket>(?i:{_LEVEL}))|stdout|stderr)\]:? ?",
    # a platform's label in front of an engine's own prefix
    rf"\[[\w .-]{{1,40}}\] ?(?=\([^()]{{0,80}}\bpid=\d|{_LEVEL} {_CLOCK} |\[{_DAY})",
    r"\[?(?P<source>[\w./-]+\.py:\d+)\] ?",  # [core.py:133], and config.py:254] to 0.7
    rf"- [\w.]+ - (?P<logging>{_LEVEL}) - ",
    r"\[(?P<rank>(?:default|rank)_?\d+)\]: ?",  # torchrun
    # PyTorch's C++, glog
    r"\[(?P<cpp>[WEIF])\d{3,4} \d\d:\d\d:\d\d\S* [^\]]*\] ?(?:Warning: )?",
    r"(?P<glog>[WEIF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+:\d+\] ?",
    r"\d+\.\d\d\.\d{3}\.\d{3} (?P<llama>[DIWEF]) ",  # llama.cpp --log-timestamps
    r"(?:[\w-]+: )?text_(?:generation|embeddings)_\w+(?:::\w+)*: (?:\S+\.rs:\d+: )?",  # TGI
    r"\| ?(?=\S| {2})|> (?=\S| {2})",  # exception groups, quoted text
)
# What is left of a prefix where a log was cut.
_REMNANT = re.compile(
    r"[^'\"\[\](]{0,60}?(?:\[[\w./-]+\.py:\d+\]|[\w./-]*:\d+\]) ?"
    r"|[\w ]{0,40}pid=\d+[^()]{0,40}\) ?|[\d:. -]{1,20}(?: [TDPE]P\d+)*\] ?|\d?\]?: "
)
# Each wraps a message: an exception's name, pydantic, a worker's repeated error, a warning.
_WRAPPERS = (
    r"(?:\w+\.)*\w*(?:Error|Exception)(?:\(\w+\))?: ",
    r"Value error, ",
    r"Worker failed with error ['\"]",
    r"Failed to run autotuning code block: ",
    r"(?:\S+\.py:\d+: )?\w*Warning: ?",
)
_PREFIX = re.compile("|".join(_PREFIXES))
_WRAPPER = re.compile("|".join(_WRAPPERS))
_PYDANTIC_TAIL = re.compile(r" \[type=\w+, input_value=.*$")
# Ollama and other programs in Go: time=... level=ERROR source=sched.go:12 msg="..." error="..."
_LOGFMT = re.compile(
    r"(?:time=\S+ )?level=(?P<level>\w+) (?:source=(?P<source>\S+) )?msg=(?P<rest>.*)"
)
_JSON_KEYS = ("log", "message", "msg", "MESSAGE", "textPayload", "event")
_JSON_OBJECTS = ("fields", "jsonPayload", "record")
_JSON_LEVELS = ("level", "severity", "levelname", "lvl")
_MAX_PREFIXES = 12
MAX_LINES = 400  # of one JSON message


@dataclass(frozen=True)
class LogLine:
    """A parsed line.

    whole: all of it, without colours
    text: the message with the exception's name, if any
    message: the message without it
    process: "Worker_TP0 pid=12", "" if the line names none
    stream: what distinguishes the processes of a log: container, process, rank
    level: "ERROR", ..., "" if the line names none
    source: "core.py:133", "" if the line names none
    indent: spaces before the message
    prefixed: whether it has any prefix
    """

    whole: str
    text: str
    message: str
    process: str = ""
    stream: str = ""
    level: str = ""
    source: str = ""
    indent: int = 0
    prefixed: bool = False


def read_line(raw: bytes) -> LogLine:
    """Strip the prefixes of a line; of a JSON message with several lines, those of the first."""
    return read_lines(raw)[0]


def read_lines(raw: bytes) -> list[LogLine]:
    """The line without prefixes, or the lines of a JSON object's message."""
    whole = raw.decode("utf-8", errors="replace")
    whole = _COLOUR.sub("", whole) if "\x1b" in whole else whole
    text, level = _unwrap_json(whole)
    if text is whole:
        return [_strip(whole, level)]
    lines = text.strip("\n").split("\n", MAX_LINES)[:MAX_LINES]
    return [_strip(line, level, prefixed=True) for line in lines]


def _strip(line: str, level: str, *, prefixed: bool = False) -> LogLine:
    text = line.rstrip()
    groups: dict[str, str] = {}
    for number in range(_MAX_PREFIXES):
        start = text.lstrip()
        match = _PREFIX.match(start) or (_REMNANT.match(start) if number == 0 else None)
        if match is None or not match.end():
            break
        if name := match.lastgroup:
            groups.setdefault(name, match[name])
        prefixed = True
        text = start[match.end() :]
    match = _LOGFMT.match(text) if "level=" in text else None
    if match:
        groups |= {name: value for name, value in match.groupdict().items() if value}
        text, prefixed = _unquote(groups.pop("rest", "")), True
    indent = len(text) - len(text.lstrip())
    text = _PYDANTIC_TAIL.sub("", text.lstrip())
    names = ("level", "bracket", "loguru", "logging", "cpp", "glog", "llama")
    level = next((groups[name] for name in names if name in groups), level).upper()
    streams = (groups.get(name, "") for name in ("service", "pod", "process", "rank"))
    return LogLine(
        line.strip(),
        text,
        _unwrap(text),
        process=groups.get("process", ""),
        stream=" ".join(filter(None, streams)),
        level=LEVELS.get(level, level),
        source=groups.get("source", ""),
        indent=indent,
        prefixed=prefixed,
    )


def _unwrap(text: str) -> str:
    """The message without the names of exceptions and warnings before it."""
    for _ in range(_MAX_PREFIXES):
        match = _WRAPPER.match(text)
        if match is None:
            break
        text = text[match.end() :].lstrip()
    return text


def _unquote(text: str) -> str:
    """The values of `"message" error="reason"` with a colon between them."""
    parts = re.findall(r'^("(?:[^"\\]|\\.)*"|\S+)|\b(?:error|err)=("(?:[^"\\]|\\.)*"|\S+)', text)
    return ": ".join(re.sub(r'\\(["\\])', r"\1", (a or b).strip('"')) for a, b in parts) or text


def _unwrap_json(text: str) -> tuple[str, str]:
    """The message and the level of a log with one JSON object a line; `text` itself of others."""
    start = text.lstrip()
    if not start.startswith("{"):
        return text, ""
    try:
        record: object = json.loads(start)
    except (ValueError, RecursionError):
        return text, ""
    if not is_object(record):
        return text, ""
    return _find_text(record, _JSON_KEYS) or text, _find_text(record, _JSON_LEVELS)


def _find_text(record: Mapping[str, object], keys: tuple[str, ...]) -> str:
    """The first text of a key, in the object or in an object in it."""
    for inner in (record, *(record.get(name) for name in _JSON_OBJECTS)):
        if is_object(inner):
            texts = (inner.get(key) for key in keys)
            text = next((text for text in texts if isinstance(text, str) and text), "")
            if text:
                return text
    return ""
