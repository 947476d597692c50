"""One HTTP/1.1 request over asyncio streams: a body sent, a body read as it comes.

The standard library alone: HTTP clients come and go under other packages, and a clock wants few
layers under it. Left out: redirects, compression, proxies, connections kept for a second request.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from .plans import Endpoint

LONGEST_LINE = 64 * 2**10  # bytes of a header or chunk-size line
MOST_HEADERS = 200
PIECE = 64 * 2**10  # bytes read at once

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Fault(Exception):
    """Why one request failed; it is counted and goes no further.

    kind: "refused", "timeout", "HTTP 503", "broken", "malformed", "error", "endless", "empty"
    """

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind
        self.words = re.sub(r"[^ -~]+", " ", words).strip()[:200]


@dataclass(frozen=True)
class Head:
    """Status and headers of an answer; names of headers are in lower case."""

    status: int
    reason: str
    headers: dict[str, str]


@contextlib.asynccontextmanager
async def connected(endpoint: Endpoint) -> AsyncIterator[Stream]:
    """A connection, dropped at the end without waiting for the other side."""
    reader, writer = await _connect(endpoint)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _connect(endpoint: Endpoint) -> Stream:
    named = endpoint.host if endpoint.tls else None
    last = "no address"
    for address in endpoint.addresses:
        try:
            return await asyncio.open_connection(
                address,
                endpoint.port,
                ssl=endpoint.tls,
                server_hostname=named,
                limit=LONGEST_LINE,
            )
        except TimeoutError:
            raise
        except OSError as error:
            last = str(error)
    raise Fault("refused", last)


async def send(writer: asyncio.StreamWriter, endpoint: Endpoint, body: bytes, key: str) -> None:
    """POST `body`, which is JSON. key: a bearer token, '' for none."""
    lines = [
        f"POST {endpoint.path} HTTP/1.1",
        f"Host: {endpoint.authority}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Accept: text/event-stream",
        "Accept-Encoding: identity",
        "Connection: close",
        *([f"Authorization: Bearer {key}"] if key else []),
    ]
    writer.write("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)
    await writer.drain()


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Status line and headers. Raises Fault."""
    line = await _line(reader)
    found = re.fullmatch(r"HTTP/1\.[01] (\d{3})(?: (.*))?", line)
    if not found:
        raise Fault("malformed", f"no HTTP answer: {line[:80]!r}")
    headers: dict[str, str] = {}
    for _ in range(MOST_HEADERS):
        line = await _line(reader)
        if not line:
            return Head(int(found[1]), found[2] or "", headers)
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    raise Fault("malformed", f"more than {MOST_HEADERS} headers")


async def read_body(reader: asyncio.StreamReader, head: Head) -> AsyncGenerator[bytes, None]:
    """The body in pieces of at most PIECE bytes, as they come. Raises Fault where it breaks off."""
    if "chunked" in head.headers.get("transfer-encoding", "").lower():
        while size := await _chunk_size(reader):
            async for piece in _exactly(reader, size):
                yield piece
            await _line(reader)
    elif "content-length" in head.headers:
        length = head.headers["content-length"]
        if not re.fullmatch(r"\d{1,15}", length):
            raise Fault("malformed", f"Content-Length: {length[:40]!r}")
        async for piece in _exactly(reader, int(length)):
            yield piece
    else:
        while piece := await reader.read(PIECE):
            yield piece


async def _exactly(reader: asyncio.StreamReader, size: int) -> AsyncGenerator[bytes, None]:
    while size:
        piece = await reader.read(min(size, PIECE))
        if not piece:
            raise Fault("broken", "the connection ended within the answer")
        size -= len(piece)
        yield piece


async def _chunk_size(reader: asyncio.StreamReader) -> int:
    line = await _line(reader)
    size = line.partition(";")[0].strip()
    if not re.fullmatch(r"[0-9a-fA-F]{1,12}", size):
        raise Fault("malformed", f"no size of a chunk: {line[:80]!r}")
    return int(size, 16)


async def _line(reader: asyncio.StreamReader) -> str:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        words = "within a line" if error.partial else "before an answer or within it"
        raise Fault("broken", f"the connection ended {words}") from None
    except asyncio.LimitOverrunError:
        raise Fault("malformed", f"a line of more than {LONGEST_LINE} bytes") from None
    return line.decode("latin-1").rstrip("\r\n")
