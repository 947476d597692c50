"""One request of a load test, timed.

Each request has a connection of its own, and its clock starts when the connection is open and the
body is sent: httpx2 reports that moment to a trace. The times are those of `vllm bench serve`
(vLLM 0.32, vllm/benchmarks/lib/endpoint_request_func.py), with one difference: chunks without text
count, but only between those with text. So a token that completes no character is counted, and the
chunks that open and close an answer are not.
"""

import asyncio
import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import replace

import httpx2

from salient.core.errors import RequestError

from .plan import API_PATHS, LoadPlan, LoadTarget, base_url, check_target
from .result import RequestTiming

SPARE_CHUNKS = 16  # of text, more than the requested tokens
SPARE_BYTES = 2**20
BYTES_PER_TOKEN = 4096  # of its event; servers send a few hundred
MAX_EVENT_BYTES = 2**18
MAX_NAME = 1000  # characters of a model's name
MODELS_TIMEOUT = 20.0  # seconds, of /v1/models
PROBE_TIMEOUT = 5.0  # seconds, of one connection before the first request
DONE = "[DONE]"
PORTS = {"http": 80, "https": 443}
_SENDING = "http11.send_request_body.started"
_DISCONNECTS = ("Server disconnected", "peer closed", "peer unexpectedly closed")
# reasoning has either name (vLLM: `reasoning`, before 0.12 `reasoning_content`)
_TEXT_FIELDS = ("text", "content", "reasoning", "reasoning_content")


class RequestFailure(Exception):
    """Why one request failed, as (kind, message); it is counted and not raised further.

    kind: "refused", "timeout", "HTTP 503", "broken", "malformed", "error", "endless", "empty"
    """


class LoadClient:
    """Sends a plan's requests to a server, within `async with client.http`.

    The host's name is resolved once, so that no request waits for a name server.

    Raises RequestError for an invalid target.
    """

    def __init__(self, target: LoadTarget, plan: LoadPlan) -> None:
        check_target(target)
        self._target, self._plan = target, plan
        url = httpx2.URL(base_url(target))
        self._server_name = url.host
        self.url = url.copy_with(
            host=_resolve(url.host, url.port or PORTS[url.scheme]),
            path=url.path.rstrip("/") + API_PATHS[target.api],
        )
        headers = {
            "Host": url.netloc.decode("ascii"),
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        self.http = httpx2.AsyncClient(
            headers=headers | _authorization(target),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=None,
            trust_env=False,
            verify=_verification(target),
        )

    def payload(self, prompt: str) -> bytes:
        chat = self._target.api == "chat"
        body = {
            "model": self._target.model,
            **({"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}),
            "max_tokens": self._plan.output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **({"ignore_eos": True} if self._plan.ignore_eos else {}),
        }
        return json.dumps(body).encode()

    async def send(self, prompt: str) -> RequestTiming:
        """Send one prompt and time its answer. Raises nothing but when it is cancelled."""
        try:
            async with asyncio.timeout(self._target.timeout):
                return await self._time(prompt)
        except RequestFailure as failure:
            kind, message = failure.args
            return RequestTiming(failure=kind, message=_printable(message))
        except TimeoutError:
            message = f"no end within {self._target.timeout:g} s"
            return RequestTiming(failure="timeout", message=message)
        except httpx2.HTTPError as error:
            return RequestTiming(failure=_failure_kind(error), message=_message(error))

    async def _time(self, prompt: str) -> RequestTiming:
        timing, finished, empty = RequestTiming(), False, True
        tokens = self._plan.output_tokens
        max_bytes = SPARE_BYTES + tokens * BYTES_PER_TOKEN
        started = time.perf_counter()

        async def on_trace(event: str, _: Mapping[str, object]) -> None:
            nonlocal started
            if event == _SENDING:
                started = time.perf_counter()

        async with self.http.sse(
            self.url,
            method="POST",
            content=self.payload(prompt),
            extensions={"trace": on_trace, "sni_hostname": self._server_name},
            max_event_size=MAX_EVENT_BYTES,
        ) as source:
            if source.response.status_code != 200:
                raise await _http_failure(source.response)
            async for event in source:
                now = time.perf_counter() - started
                empty = False
                if event.data.strip() == DONE:
                    finished = True
                    break
                finished |= add_event(timing, event.data, now)
                size = source.response.num_bytes_downloaded
                if timing.chunks > tokens + SPARE_CHUNKS or size > max_bytes:
                    raise RequestFailure("endless", "the answer is longer than requested")
        if empty:
            raise RequestFailure("malformed", "an event stream without events")
        if not finished:
            message = f"the stream ended after {timing.chunks} chunks without an end mark"
            raise RequestFailure("broken", message)
        if not timing.chunks:
            raise RequestFailure("empty", "the answer has no text")
        return timing


def add_event(timing: RequestTiming, data: str, now: float) -> bool:
    """Add an event of a completion or a chat completion, received `now` seconds after the start.

    True where it completes the answer. A chunk counts as a token where it has text, or an empty
    text within the answer: not the chunk that opens it (it has a role) or closes it (it has a
    finish reason).

    Raises RequestFailure.
    """
    try:
        body = json.loads(data)
        choice = (body.get("choices") or [{}])[0]
        message = choice | (choice.get("delta") or {})
    except (ValueError, RecursionError, AttributeError, LookupError, TypeError):
        raise RequestFailure("malformed", f"an event that is not a chunk: {data[:80]!r}") from None
    if body.get("error"):
        raise RequestFailure("error", f"the server reports {json.dumps(body['error'])}")
    texts = [message[name] for name in _TEXT_FIELDS if isinstance(message.get(name), str)]
    finished = bool(choice.get("finish_reason"))
    within = timing.chunks and not finished and not message.get("role")
    if any(texts) or (texts and within):
        timing.add_token(now)
    timing.usage = _parse_usage(body.get("usage")) or timing.usage
    return finished


def _parse_usage(usage: object) -> tuple[int, int] | None:
    if not isinstance(usage, dict):
        return None
    prompt, output = usage.get("prompt_tokens", 0), usage.get("completion_tokens")
    valid = [n for n in (prompt, output) if type(n) is int and 0 <= n < 2**40]
    return (valid[0], valid[1]) if len(valid) == 2 else None


async def _http_failure(response: httpx2.Response) -> RequestFailure:
    message = response.reason_phrase
    with contextlib.suppress(httpx2.HTTPError):
        async for piece in response.aiter_bytes():
            message += f": {piece[:200].decode('utf-8', 'replace')}"
            break
    return RequestFailure(f"HTTP {response.status_code}", message)


def _failure_kind(error: httpx2.HTTPError) -> str:
    if isinstance(error, httpx2.ConnectError):
        return "refused"
    protocol = httpx2.RemoteProtocolError | httpx2.SSEError | httpx2.DecodingError
    malformed = isinstance(error, protocol) and not str(error).startswith(_DISCONNECTS)
    return "malformed" if malformed else "broken"


def _message(error: httpx2.HTTPError) -> str:
    """The system's message where there is one: httpx2's own is less specific."""
    root, message = error.__cause__, str(error)
    while root := root and (root.__cause__ or root.__context__):
        message = str(root) if isinstance(root, OSError) else message
    return _printable(message) or type(error).__name__


def _printable(message: str) -> str:
    return re.sub(r"[^ -~]+", " ", message).strip()[:200]


def resolve_model(target: LoadTarget) -> LoadTarget:
    """The target with its model's name: its own, or the first that the server lists.

    Raises RequestError where the server does not answer or lists none.
    """
    if target.model:
        return target
    check_target(target)
    url = f"{base_url(target)}/v1/models"
    try:
        response = httpx2.get(
            url,
            headers=_authorization(target),
            timeout=MODELS_TIMEOUT,
            trust_env=False,
            verify=_verification(target),
        )
        response.raise_for_status()
        name = response.json()["data"][0]["id"]
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= MAX_NAME:
            raise ValueError
        return replace(target, model=name)
    except httpx2.HTTPStatusError as error:
        status = error.response.status_code
        advice = "Set OPENAI_API_KEY" if status in (401, 403) else "Look at the server's log"
        raise RequestError(f"{url} answers with status {status}. {advice}.") from None
    except httpx2.HTTPError as error:
        raise RequestError(
            f"{url} does not answer ({_message(error)}). Start the server first, and check "
            "its address."
        ) from None
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        raise RequestError(
            f"{url} lists no model as OpenAI's API does. Is it an OpenAI-compatible server?"
        ) from None


def _authorization(target: LoadTarget) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.api_key}"} if target.api_key else {}


def _verification(target: LoadTarget) -> ssl.SSLContext | bool:
    https = base_url(target).startswith("https:")
    return ssl.create_default_context() if https else False


def _resolve(host: str, port: int) -> str:
    """The address at which `host` accepts connections, else its name."""
    try:
        with socket.create_connection((host, port), PROBE_TIMEOUT) as probe:
            return str(probe.getpeername()[0])
    except (socket.gaierror, UnicodeError) as error:
        raise RequestError(
            f"The host {host[:200]!r} is unknown ({error}). Check the address and the network."
        ) from None
    except OSError:
        return host
