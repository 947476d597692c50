"""A small OpenAI-compatible server: streams at a known pace, or misbehaves in a known way."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


@dataclass(frozen=True)
class Manner:
    """How the server responds; seconds.

    first: before the first chunk; gap: between chunks; a chunk carries `tokens` tokens
    usage: send token counts on request
    raw: written instead of a response; then the connection is closed, or stays open if `hang`
    again: written over and over after `raw`, until the client goes
    dies: close the connection after this many chunks
    """

    first: float = 0.0
    gap: float = 0.0
    tokens: int = 1
    usage: bool = True
    raw: bytes | None = None
    again: bytes = b""
    hang: bool = False
    dies: int | None = None
    framing: str = "chunked"


@dataclass
class RecordedRequests:
    """Received requests: bodies, headers with names in lower case, paths. most: at once"""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    under_way: int = 0
    most: int = 0


@dataclass
class ToyServer:
    url: str
    requests: RecordedRequests


@contextlib.contextmanager
def toy_server(manner: Manner) -> Iterator[ToyServer]:
    """A server on a free port of 127.0.0.1, in a thread of its own."""
    loop, requests, port = asyncio.new_event_loop(), RecordedRequests(), []
    ready, ended = threading.Event(), asyncio.Event()

    async def serve() -> None:
        tasks: set[asyncio.Task] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.current_task())
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await _converse(reader, writer, manner, requests)
            writer.transport.abort()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        ready.set()
        await ended.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)

    def run() -> None:
        loop.run_until_complete(serve())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield ToyServer(f"http://127.0.0.1:{port[0]}", requests)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


async def _converse(reader, writer, manner: Manner, requests: RecordedRequests) -> None:
    if await reader.readexactly(1) != b"P":  # no POST: the start of TLS
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        return
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines) if k}
    body = json.loads(await reader.readexactly(int(headers["content-length"])))
    requests.bodies.append(body)
    requests.headers.append(headers)
    requests.paths.append(first.split()[1])
    requests.under_way += 1
    requests.most = max(requests.most, requests.under_way)
    try:
        if manner.raw is None:
            await _stream(writer, body, manner, chat="messages" in body)
        else:
            await _misbehave(writer, manner)
    finally:
        requests.under_way -= 1


async def _misbehave(writer, manner: Manner) -> None:
    writer.write(manner.raw)
    await writer.drain()
    while manner.again:
        writer.write(manner.again)
        await writer.drain()
    if manner.hang:
        await asyncio.Event().wait()
    writer.close()
    await writer.wait_closed()


async def _stream(writer, body: dict[str, Any], manner: Manner, *, chat: bool) -> None:
    chunked = manner.framing == "chunked"
    writer.write(SSE_HEAD + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n"))

    async def send(data: str) -> None:
        event = f"data: {data}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(event), event) if chunked else event)
        await writer.drain()

    chunks = -(-body["max_tokens"] // manner.tokens)
    for number in range(chunks):
        if number == manner.dies:
            return
        await asyncio.sleep(manner.gap if number else manner.first)
        await send(json.dumps({"choices": [_choice(chat=chat, text="word ")]}))
    await send(json.dumps({"choices": [_choice(chat=chat, text="", end="length")]}))
    if manner.usage and body["stream_options"]["include_usage"]:
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        counts = {"prompt_tokens": len(prompt.split()), "completion_tokens": body["max_tokens"]}
        await send(json.dumps({"choices": [], "usage": counts}))
    await send("[DONE]")
    if chunked:
        writer.write(b"0\r\n\r\n")
    writer.close()
    await writer.wait_closed()


def _choice(*, chat: bool, text: str, end: str | None = None) -> dict[str, Any]:
    content = {"delta": {"content": text}} if chat else {"text": text}
    return {"index": 0, "finish_reason": end, **content}
