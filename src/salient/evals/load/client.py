"""One request of a load test, timed.

The clock starts when the connection stands and the request is sent, as with connections that a
client keeps. Times are those of `vllm bench serve` (vLLM 0.32,
vllm/benchmarks/lib/endpoint_request_func.py), with one difference: chunks without text count only
between those with text. So a token that ends no character is one, and what opens and closes an
answer is none.
"""

import asyncio
import contextlib
import json
import time
from array import array
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from .events import DONE, EventReader, read_chunk
from .plans import Endpoint, LoadPlan, Target
from .wire import Fault, Head, connected, read_body, read_head, send

SPARE_CHUNKS = 16  # of text, beyond the tokens that were asked for
SPARE_BYTES = 2**20
BYTES_A_TOKEN = 4096  # of its event; servers send a few hundred


@dataclass(frozen=True)
class Question:
    """What every request of a run shares."""

    endpoint: Endpoint
    target: Target
    output_tokens: int
    ignore_eos: bool


@dataclass
class Outcome:
    """One request's numbers, in seconds; no text is kept.

    e2e: to the last chunk of a token; gaps: between chunks of tokens
    usage: (prompt tokens, output tokens) as the server counted, None where it did not
    failed, words: kind of failure and what was seen; its times then mean nothing
    """

    ttft: float = 0.0
    e2e: float = 0.0
    chunks: int = 0
    gaps: array = field(default_factory=lambda: array("d"))
    usage: tuple[int, int] | None = None
    failed: str = ""
    words: str = ""

    @property
    def output_tokens(self) -> int:
        """As the server counted, else a token a chunk."""
        return self.usage[1] if self.usage else self.chunks


def question(target: Target, plan: LoadPlan, endpoint: Endpoint) -> Question:
    """What the requests of a plan share."""
    return Question(endpoint, target, plan.output_tokens, plan.ignore_eos)


async def ask(shared: Question, prompt: str) -> Outcome:
    """Send one prompt and time its answer. Never raises but when it is cancelled."""
    try:
        async with asyncio.timeout(shared.target.timeout):
            return await _timed(shared, prompt)
    except Fault as fault:
        return Outcome(failed=fault.kind, words=fault.words)
    except TimeoutError:
        return Outcome(failed="timeout", words=f"no end within {shared.target.timeout:g} s")
    except OSError as error:
        return Outcome(failed="broken", words=str(error) or type(error).__name__)


def payload(shared: Question, prompt: str) -> bytes:
    """The request's JSON."""
    said: dict = {"model": shared.target.model}
    if shared.target.api == "chat":
        said["messages"] = [{"role": "user", "content": prompt}]
    else:
        said["prompt"] = prompt
    said |= {"max_tokens": shared.output_tokens, "temperature": 0, "stream": True}
    said["stream_options"] = {"include_usage": True}
    if shared.ignore_eos:
        said["ignore_eos"] = True
    return json.dumps(said).encode()


async def _timed(shared: Question, prompt: str) -> Outcome:
    body = payload(shared, prompt)
    async with connected(shared.endpoint) as (reader, writer):
        started = time.perf_counter()
        # a server may answer, and close, before it has read all
        with contextlib.suppress(ConnectionError):
            await send(writer, shared.endpoint, body, shared.target.api_key or "")
        head = await read_head(reader)
        async with contextlib.aclosing(read_body(reader, head)) as pieces:
            if head.status != 200:
                raise Fault(f"HTTP {head.status}", await _complaint(head, pieces))
            return await _listen(pieces, head, started, shared.output_tokens)


async def _complaint(head: Head, pieces: AsyncIterator[bytes]) -> str:
    """What an error page says, its start."""
    try:
        async for piece in pieces:
            return f"{head.reason}: {piece[:200].decode('utf-8', 'replace')}"
    except Fault:
        pass
    return head.reason


async def _listen(pieces: AsyncIterator[bytes], head: Head, started: float, tokens: int) -> Outcome:
    found, events, size = Outcome(), EventReader(), 0
    finished, most = False, SPARE_BYTES + tokens * BYTES_A_TOKEN
    async for piece in pieces:
        now = time.perf_counter() - started
        size += len(piece)
        if size > most or found.chunks > tokens + SPARE_CHUNKS:
            raise Fault("endless", "more came than was asked for")
        for data in events.feed(piece):
            if data.strip() == DONE:
                return _whole(found)
            finished |= _note(found, data, now)
    now = time.perf_counter() - started
    for data in events.end():
        finished |= data.strip() == DONE or _note(found, data, now)
    if not events.seen:
        kind = head.headers.get("content-type", "nothing that says what it is")
        raise Fault("malformed", f"no stream of events but {kind}")
    if not finished:
        raise Fault("broken", f"the stream ended after {found.chunks} chunks without saying so")
    return _whole(found)


def _note(found: Outcome, data: str, now: float) -> bool:
    """Take in one event; whether it says that the answer is complete."""
    chunk = read_chunk(data)
    found.usage = chunk.usage or found.usage
    if chunk.text or (chunk.silent and found.chunks):
        if found.chunks:
            found.gaps.append(now - found.e2e)
        else:
            found.ttft = now
        found.chunks, found.e2e = found.chunks + 1, now
    return chunk.finished


def _whole(found: Outcome) -> Outcome:
    if not found.chunks:
        raise Fault("empty", "the answer has no text")
    return found
