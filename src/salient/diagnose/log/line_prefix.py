"""What a program said, without what stands before it: colours, times, levels, names of processes.

Takes off the prefixes of vLLM 0.2 to 0.32 and SGLang, of Docker, Kubernetes, journald and Ray, and
unwraps what pydantic, exceptions and JSON lines wrap.
"""

import json
import re
from dataclasses import dataclass

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_LEVEL = r"(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL)"
_DAY = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d"
# Each is something that stands before a message; any number of them, in any order.
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
# Each wraps a message: an exception's name, pydantic, a worker's error told again, a warning.
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
_MOST = 12  # prefixes taken off at most


@dataclass(frozen=True)
class LogLine:
    """A line as its program said it.

    whole: all of it, without colours
    text: the message with the exception's name, if any
    message: what remains without that
    process: "Worker_TP0 pid=12", "" where the line does not say
    """

    whole: str
    text: str
    message: str
    process: str = ""


def read_line(raw: bytes) -> LogLine:
    """The message of a line, whatever its prefixes."""
    whole = text = _unwrap_json(_COLOUR.sub("", raw.decode("utf-8", errors="replace"))).strip()
    process = ""
    for _ in range(_MOST):
        found = _PREFIX.match(text)
        if found is None or not found.end():
            break
        process = process or found["process"] or ""
        text = text[found.end() :].lstrip()
    text = _PYDANTIC_TAIL.sub("", text)
    message = text
    for _ in range(_MOST):
        found = _WRAPPER.match(message)
        if found is None:
            break
        message = message[found.end() :].lstrip()
    return LogLine(whole, text, message, process)


def _unwrap_json(text: str) -> str:
    """The message of a log that has one JSON object a line."""
    if not text.startswith("{"):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    words = [found[key] for key in _JSON_KEYS if isinstance(found.get(key), str)]
    return words[0] if words else text
