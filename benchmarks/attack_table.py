"""What one hostile client sends: a table of attacks, and a process that carries one out.

    python benchmarks/attack_table.py NAME PORT

Ways of an attack:

    repeat   connect, send `data`, read the response, close; again
    hold     send `data` and then nothing; a closed connection is opened again
    drip     send `data`, then a `piece` twice a second
    pour     send `data`, then `piece` without end, as fast as it is taken
    unread   send `data` and read nothing
    reset    connect, send `data` and reset the connection
"""

import asyncio
import contextlib
import json
import os
import random
import resource
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

HOSTILE_TEMPLATE = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
CHUNKED = "Transfer-Encoding: chunked"


@dataclass(frozen=True)
class Attack:
    """data: what each connection sends first, a list: each request one of them"""

    name: str
    way: str
    data: "bytes | Lazy" = b""
    piece: bytes = b""
    connections: int = 4
    hostile_template: bool = False


@dataclass(frozen=True)
class Lazy:
    """A body that is built by the attacker only. make: returns it"""

    path: str
    make: Callable[[], object]

    @cached_property
    def request(self) -> bytes:
        body = self.make()
        return post(self.path, body if isinstance(body, bytes) else json.dumps(body).encode())


def post(path: str, body: bytes = b"", *headers: str) -> bytes:
    """A request; with a Content-Length unless `headers` are given."""
    lines = headers or (f"Content-Length: {len(body)}",)
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def schema(inner: object) -> dict:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": inner}}
    return {"prompt": "a", "max_tokens": 64, "response_format": form}


def nested(depth: int) -> dict:
    return {"items": nested(depth - 1)} if depth else {}


COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
LONG = {"prompt": "a", "max_tokens": 4000, "ignore_eos": True}
HELLO = [{"role": "user", "content": "hello"}]
BODIES: dict[str, tuple[str, Callable[[], object]]] = {
    # name -> path, body
    "bad-ids": (COMPLETIONS, lambda: {"prompt": [-1] * 1_300_000}),
    "large-ids": (COMPLETIONS, lambda: {"prompt": [2**40 + i for i in range(400_000)]}),
    "bool-ids": (COMPLETIONS, lambda: {"prompt": [1] * 700_000 + [True]}),
    "bad-id-lists": (COMPLETIONS, lambda: {"prompt": [[1.5] * 20_000] * 64}),
    "many-ids": (COMPLETIONS, lambda: {"prompt": [[5] * 60_000] * 40}),
    "mixed-prompt": (COMPLETIONS, lambda: {"prompt": ["a", 1, [2], {}] * 400_000}),
    "long-prompt": (COMPLETIONS, lambda: {"prompt": "lorem ipsum " * 170_000}),
    "one-word": (COMPLETIONS, lambda: {"prompt": "a" * 2_000_000}),
    "many-prompts": (COMPLETIONS, lambda: {"prompt": ["lorem ipsum " * 9_000] * 64}),
    "long-tokenize": ("/tokenize", lambda: {"prompt": "lorem ipsum " * 170_000}),
    "wide-tokenize": ("/tokenize", lambda: {"prompt": "\u4f60\U0001f600" * 350_000}),
    "detokenize": ("/detokenize", lambda: {"tokens": list(range(1_000_000))}),
    "long-chat": (
        CHAT,
        lambda: {"messages": [{"role": "user", "content": "lorem ipsum " * 160_000}]},
    ),
    "many-messages": (CHAT, lambda: {"messages": [{"role": "user", "content": "a" * 4000}] * 1024}),
    "many-parts": (
        CHAT,
        lambda: {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 64}] * 1024
        },
    ),
    "extra-keys": (CHAT, lambda: {"messages": HELLO, **{f"k{i}": i for i in range(400_000)}}),
    "deep-json": (COMPLETIONS, lambda: b'{"prompt": ' + b"[" * 4_000_000),
    "wide-json": (COMPLETIONS, lambda: b'{"prompt": [' + b"{}," * 2_600_000 + b"{}]}"),
    "deep-and-wide": (
        COMPLETIONS,
        lambda: b'{"x": [' + (b"[" * 40 + b"]" * 40 + b",") * 95_000 + b"0]}",
    ),
    "long-number": (COMPLETIONS, lambda: b'{"prompt": "a", "seed": ' + b"9" * 4_000_000 + b"}"),
    "long-float": (COMPLETIONS, lambda: b'{"prompt": "a", "top_p": 0.' + b"9" * 4_000_000 + b"}"),
    "escapes": (COMPLETIONS, lambda: b'{"prompt": "' + b"\\ud800" * 1_200_000 + b'"}'),
    "invalid-utf8": (COMPLETIONS, lambda: b'{"prompt": "' + b"\xff" * 4_000_000 + b'"}'),
    "zeros": (COMPLETIONS, lambda: bytes(8_000_000)),
    "many-stops": (COMPLETIONS, lambda: {"prompt": "a", "stop": ["x" * 900] * 7_000}),
    "logit-bias": (
        COMPLETIONS,
        lambda: {"prompt": "a", "logit_bias": {i: 1 for i in range(400_000)}},
    ),
    "wide-schema": (
        COMPLETIONS,
        lambda: schema(
            {
                "type": "object",
                "properties": {
                    f"k{i}": {"type": "string", "pattern": f"[a-z]{{{i}}}"} for i in range(1, 2000)
                },
            }
        ),
    ),
    "deep-schema": (COMPLETIONS, lambda: schema(nested(60))),
    "pattern": (
        COMPLETIONS,
        lambda: schema({"type": "string", "pattern": "(((a{0,99}){0,99}){0,99})b"}),
    ),
    "enum": (COMPLETIONS, lambda: schema({"enum": [f"{i:09d}" * 4 for i in range(60_000)]})),
    "any-of": (
        COMPLETIONS,
        lambda: schema(
            {
                "anyOf": [
                    {"type": "object", "properties": {"a": {"const": i}}} for i in range(20_000)
                ]
            }
        ),
    ),
    "many-choices": (
        COMPLETIONS,
        lambda: {**LONG, "prompt": ["a"] * 16, "n": 16, "max_tokens": 2000},
    ),
    "long-answers": (COMPLETIONS, lambda: {**LONG, "n": 6, "logprobs": 20}),
    "short-answers": (COMPLETIONS, lambda: {**LONG, "n": 16, "max_tokens": 64, "logprobs": 20}),
    "long-prompts": (
        COMPLETIONS,
        lambda: {
            "prompt": [random.Random(i).choices(range(100, 40_000), k=7000) for i in range(40)],
            "max_tokens": 8,
        },
    ),
}
FILLS_CACHE = ("long-prompts",)  # whose tokens fill the cache that the server has for them

ATTACKS = [
    *(Attack(name, "repeat", Lazy(*body), connections=8) for name, body in BODIES.items()),
    Attack("half-open", "hold", b"", connections=400),
    Attack("half-heads", "hold", b"POST /v1/completions HTTP/1.1\r\nHost: loc", connections=400),
    Attack(
        "half-bodies", "hold", post(COMPLETIONS, b"{", "Content-Length: 8000000"), connections=400
    ),
    Attack("slow-heads", "drip", b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"a: b\r\n", 300),
    Attack("slow-bodies", "drip", post(COMPLETIONS, b"{", "Content-Length: 80000"), b" ", 300),
    Attack("slow-chunks", "drip", post(COMPLETIONS, b"", CHUNKED), b"1\r\n \r\n", 300),
    Attack("small-chunks", "pour", post(COMPLETIONS, b"", CHUNKED), b"1\r\n \r\n" * 10_000, 8),
    Attack(
        "chunk-extensions",
        "pour",
        post(COMPLETIONS, b"", CHUNKED),
        b"1;" + b"x" * 9000 + b"\r\n \r\n",
    ),
    Attack(
        "bad-chunk-size",
        "repeat",
        post(COMPLETIONS, b"fffffffffffffffffff\r\n", CHUNKED),
        connections=16,
    ),
    Attack(
        "endless-body", "pour", post(COMPLETIONS, b"", "Content-Length: 99999999999"), b" " * 65_536
    ),
    Attack("endless-head", "pour", b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 10_000, 8),
    Attack("large-head", "repeat", get("/health", "a: " + "b" * 60_000), connections=16),
    Attack("many-heads", "repeat", get("/health", *["a: b"] * 2_500), connections=16),
    Attack(
        "two-lengths",
        "repeat",
        post(COMPLETIONS, b"{}", "Content-Length: 2", "Content-Length: 3"),
        connections=16,
    ),
    Attack(
        "length-and-chunks",
        "repeat",
        post(COMPLETIONS, b"0\r\n\r\n", "Content-Length: 5", CHUNKED),
        connections=16,
    ),
    Attack(
        "garbage",
        "repeat",
        b"\x16\x03\x01\x02\x00" + bytes(range(256)) * 8 + b"\r\n\r\n",
        connections=32,
    ),
    Attack("long-paths", "repeat", get("/" + "%1b" * 4000), connections=32),
    Attack("health-flood", "repeat", get("/health"), connections=64),
    Attack("metrics-flood", "repeat", get("/metrics"), connections=32),
    Attack("pipelined", "pour", b"", get("/health") * 1000, 16),
    Attack(
        "upgrade", "repeat", get("/", "Connection: Upgrade", "Upgrade: websocket"), connections=32
    ),
    Attack(
        "forwarded",
        "repeat",
        get("/version", "X-Forwarded-For: " + "1.2.3.4, " * 1500),
        connections=16,
    ),
    Attack("resets", "reset", post(COMPLETIONS, json.dumps({**LONG}).encode()), connections=32),
    Attack("half-resets", "reset", post(COMPLETIONS, b"{", "Content-Length: 900"), connections=64),
    Attack(
        "unread-stream",
        "unread",
        post(COMPLETIONS, json.dumps({**LONG, "stream": True, "n": 6, "logprobs": 20}).encode()),
        connections=8,
    ),
    Attack("unread-pipeline", "pour", b"", get("/metrics") * 500, 32),
    Attack(
        "template",
        "repeat",
        post(CHAT, json.dumps({"messages": HELLO}).encode()),
        b"",
        40,
        hostile_template=True,
    ),
]


async def carry_out(attack: Attack, port: int) -> None:
    """Attack until the process that started this one has gone."""
    request = attack.data.request if isinstance(attack.data, Lazy) else attack.data
    ways = {
        "repeat": repeat,
        "hold": hold,
        "drip": drip,
        "pour": pour,
        "unread": hold,
        "reset": reset,
    }
    act = ways[attack.way]
    attackers = [
        asyncio.ensure_future(again(act, port, request, attack.piece))
        for _ in range(attack.connections)
    ]
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(1)
    for attacker in attackers:
        attacker.cancel()


async def again(act, port: int, request: bytes, piece: bytes) -> None:
    """`act` on new connections, for ever."""
    while True:
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            small = asyncio.open_connection("127.0.0.1", port, limit=2**16)
            reader, writer = await asyncio.wait_for(small, 30)
            try:
                await act(reader, writer, request, piece)
            finally:
                writer.transport.abort()
        await asyncio.sleep(0.002 + random.random() / 500)


async def repeat(reader, writer, request: bytes, piece: bytes) -> None:
    writer.write(request)
    await asyncio.wait_for(writer.drain(), 60)
    await asyncio.wait_for(reader.read(2**16), 60)


async def hold(reader, writer, request: bytes, piece: bytes) -> None:
    writer.write(request)
    await writer.drain()
    writer.transport.pause_reading()
    while not writer.transport.is_closing():
        await asyncio.sleep(0.5)
        if not request.endswith(b"}"):  # reads, to notice that it is closed
            writer.transport.resume_reading()
            if reader.at_eof():
                return


async def drip(reader, writer, request: bytes, piece: bytes) -> None:
    writer.write(request)
    while not reader.at_eof():
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.5)


async def pour(reader, writer, request: bytes, piece: bytes) -> None:
    writer.write(request)
    while not reader.at_eof() and not writer.transport.is_closing():
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)


async def reset(reader, writer, request: bytes, piece: bytes) -> None:
    writer.write(request)
    await writer.drain()
    await asyncio.sleep(random.random() / 50)
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


if __name__ == "__main__":
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
    chosen = {attack.name: attack for attack in ATTACKS}
    with contextlib.suppress(KeyboardInterrupt, KeyError):
        asyncio.run(carry_out(chosen[sys.argv[1]], int(sys.argv[2])))
