"""Server-sent events, and what those of an OpenAI-compatible server say.

The stream format is that of the HTML standard, section "Server-sent events", with lines that end
in LF or CRLF. Event names, ids and retry times are read over.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .wire import Fault

LARGEST_EVENT = 2**18  # bytes
DONE = "[DONE]"


@dataclass
class EventReader:
    """Bytes in, the data of events out. seen: whether any data came"""

    seen: bool = False
    _rest: bytes = b""
    _data: list[bytes] = field(default_factory=list)
    _held: int = 0

    def feed(self, piece: bytes) -> Iterator[str]:
        """The data of each event that `piece` completes. Raises Fault for one without end."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            yield from self._take(line.removesuffix(b"\r"))
        self._bound(len(self._rest))

    def end(self) -> Iterator[str]:
        """What the end of the stream completes: servers forget the last empty line."""
        yield from self._take(self._rest)
        yield from self._take(b"")

    def _take(self, line: bytes) -> Iterator[str]:
        if line.startswith(b"data:"):
            self.seen = True
            self._data.append(line[5:].removeprefix(b" "))
            self._held += len(line)
            self._bound(self._held)
        elif not line and self._data:
            joined, self._data, self._held = b"\n".join(self._data), [], 0
            yield joined.decode("utf-8", "replace")

    @staticmethod
    def _bound(size: int) -> None:
        if size > LARGEST_EVENT:
            raise Fault("malformed", f"an event of more than {LARGEST_EVENT} bytes")


@dataclass(frozen=True)
class Chunk:
    """What one event says.

    text: whether it carries text   silent: a token without text, such as the first bytes of a
        character; none that opens an answer (it has a role) or closes it (it says why)
    usage: (prompt tokens, output tokens), None where it has none
    """

    text: bool
    silent: bool
    finished: bool
    usage: tuple[int, int] | None


def read_chunk(data: str) -> Chunk:
    """Read a completion's or a chat completion's chunk. Raises Fault."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        raise Fault("malformed", f"an event that is not JSON: {data[:80]!r}") from None
    if not isinstance(said, dict):
        raise Fault("malformed", f"an event that is no object: {data[:80]!r}")
    if said.get("error"):
        raise Fault("error", f"the server reports {json.dumps(said['error'])}")
    choices = said.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else {}
    if not isinstance(choice, dict):
        raise Fault("malformed", f"a choice that is no object: {data[:80]!r}")
    delta = choice.get("delta")
    parts = delta if isinstance(delta, dict) else {}
    places = (choice.get("text"), *(parts.get(name) for name in _SPOKEN))
    texts = [text for text in places if isinstance(text, str)]
    finished = bool(choice.get("finish_reason"))
    silent = bool(texts) and not any(texts) and not finished and not parts.get("role")
    return Chunk(any(texts), silent, finished, _usage(said.get("usage")))


# what models think comes under either name (vLLM: `reasoning`, before 0.12 `reasoning_content`)
_SPOKEN = ("content", "reasoning", "reasoning_content")


def _usage(usage: Any) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    counts = usage.get("prompt_tokens", 0), usage.get("completion_tokens")
    if all(type(count) is int and 0 <= count < 2**40 for count in counts):
        return counts  # pyright: ignore[reportReturnType]
    return None
