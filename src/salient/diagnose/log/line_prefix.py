"""The message of a log line, without its prefixes: colours, times, levels, process names.

Knows the prefixes of vLLM 0.2 to 0.32, SGLang, Docker, Kubernetes, journald and Ray, and unwraps
messages of pydantic, exceptions and JSON lines.
"""

import json
import re
from dataclasses import dataclass

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LEVEL = r"(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL)"
_DAY = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d"
# Any number of them precede a message, in any order.
_PREFIXES = (
    rf"{_DAY}\S*\s+(?:std(?:out|err)\s+[FP]\s)?",  # docker -t, Kubernetes, Python's logging
    r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ [\w.@-]+(?:\[\d+\])?: ",  # journald
    r"[\w.-]+\s+\| |│ ",  # docker compose, k9s
    r"\[pod/[^\]]*\]\s",  # kubectl logs --prefix
    r"\((?P<process>[^()]{0,80}\bpid=\d+[^()]{0,80})\)\s",  # vLLM's processes, Ray's actors
    r"\((?:raylet|autoscaler)[^()]*\)\s",
    rf"\[{_DAY}[^\]]*\]\s*",  # SGLang
    rf"{_LEVEL}:?\s+(?:\d\d-\d\d \d\d:\d\d:\d\d\S*\s?)?",  # vLLM, uvicorn
    r"\[?[\w./-]+\.py:\d+\]\s?",  # [core.py:133], and config.py:254] to 0.7
    rf"- [\w.]+ - {_LEVEL} - ",
    r"\[rank\d+\]:\s?",  # torchrun
    r"\[[WEIF]\d{3,4} \d\d:\d\d:\d\d\S* [^\]]*\]\s*(?:Warning: )?",  # PyTorch's C++
)
# Each wraps a message: an exception's name, pydantic, a worker's repeated error, a warning.
_WRAPPERS = (
    r"(?:\w+\.)*\w*(?:Error|Exception)(?:\(\w+\))?: ",
    r"Value error, ",
    r"Worker failed with error ['\"]",
    r"(?:\S+\.py:\d+: )?\w*Warning: ?",
)
_PREFIX = re.compile("|".join(_PREFIXES))
_WRAPPER = re.compile("|".join(_WRAPPERS))
_PYDANTIC_TAIL = re.compile(r" \[type=\w+, input_value=.*$")
_JSON_KEYS = ("log", "message", "msg", "MESSAGE", "textPayload")
_MAX_PREFIXES = 12


@dataclass(frozen=True)
class LogLine:
    """A parsed line.

    whole: all of it, without colours
    text: the message with the exception's name, if any
    message: the message without it
    process: "Worker_TP0 pid=12", "" if the line names none
    """

    whole: str
    text: str
    message: str
    process: str = ""


def read_line(raw: bytes) -> LogLine:
    """Strip the prefixes of a line."""
    whole = text = _unwrap_json(_COLOUR.sub("", raw.decode("utf-8", errors="replace"))).strip()
    process = ""
    for _ in range(_MAX_PREFIXES):
        match = _PREFIX.match(text)
        if match is None or not match.end():
            break
        process = process or match["process"] or ""
        text = text[match.end() :].lstrip()
    text = _PYDANTIC_TAIL.sub("", text)
    message = text
    for _ in range(_MAX_PREFIXES):
        match = _WRAPPER.match(message)
        if match is None:
            break
        message = message[match.end() :].lstrip()
    return LogLine(whole, text, message, process)


def _unwrap_json(text: str) -> str:
    """The message of a log with one JSON object a line."""
    if not text.startswith("{"):
        return text
    try:
        record: dict[str, object] = json.loads(text)
    except (ValueError, RecursionError):
        return text
    messages = (record.get(key) for key in _JSON_KEYS)
    return next((message for message in messages if isinstance(message, str)), text)
