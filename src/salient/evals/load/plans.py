"""What is asked of a load test: which server, which steps, how many tokens.

Everything a user can get wrong is refused here, before the first request.
"""

import re
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from salient.core.errors import RequestError

Api = Literal["completions", "chat"]
Arrivals = Literal["poisson", "constant"]
PATHS: dict[Api, str] = {"completions": "/completions", "chat": "/chat/completions"}
PORTS = {"http": 80, "https": 443}
_FITS = "Give one like http://localhost:8000."
MOST_TOGETHER = 1000  # connections of one process: most systems allow 1024 open files
MOST_REQUESTS = 1_000_000  # of a step: its numbers are kept in memory


@dataclass(frozen=True)
class Target:
    """A server and how it is spoken to.

    url: "http://host:8000", with or without /v1; model: the name that the server serves
    api_key: sent as a bearer token; timeout: seconds for a whole request
    """

    url: str
    model: str
    api: Api = "completions"
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 300.0


@dataclass(frozen=True)
class Step:
    """One pattern of requests.

    concurrency: requests under way at most
    rate: requests a second; None sends the next as soon as one has ended
    arrivals: of a rate, by chance or evenly
    """

    concurrency: int = MOST_TOGETHER
    rate: float | None = None
    arrivals: Arrivals = "poisson"

    @property
    def words(self) -> str:
        """ "4 at once", "2.5 requests/s (poisson)"."""
        return (
            f"{self.concurrency} at once"
            if self.rate is None
            else f"{self.rate:g} requests/s ({self.arrivals})"
        )


@dataclass(frozen=True)
class LoadPlan:
    """Steps, one after another, and the requests of each.

    requests, seconds: a step starts no request after either; one of them may be None
    warmups: requests before each step that are not counted
    prompt_tokens, output_tokens: of each request; ignore_eos: ask for all output tokens. Servers
    that refuse unknown fields need it off.
    seed: of arrivals and prompts. A second run against the same server wants another one: its
    cache of prefixes knows the first run's prompts.
    text: what prompts are cut from; '' is the built-in held-out text
    """

    steps: tuple[Step, ...] = (Step(1), Step(4), Step(8))
    requests: int | None = 64
    seconds: float | None = None
    warmups: int = 2
    prompt_tokens: int = 256
    output_tokens: int = 128
    ignore_eos: bool = True
    seed: int = 0
    text: str = field(default="", repr=False)


@dataclass(frozen=True)
class Endpoint:
    """Where requests go. addresses: of `host`, as the system resolved it once."""

    host: str
    port: int
    path: str
    addresses: tuple[str, ...]
    tls: ssl.SSLContext | None = None

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


# field, smallest, largest, what it is
_BOUNDS = (
    ("requests", 1, MOST_REQUESTS, "requests of a step"),
    ("seconds", 0.001, 7 * 86400, "seconds of a step"),
    ("warmups", 0, MOST_REQUESTS, "warm-up requests"),
    ("prompt_tokens", 1, 2**20, "tokens of a prompt"),
    ("output_tokens", 1, 2**20, "tokens of an answer"),
)
_STEP_BOUNDS = (
    ("concurrency", 1, MOST_TOGETHER, "requests at once"),
    ("rate", 1e-4, 1e5, "requests a second"),
)


def steps_of(concurrency: str, rate: float | None) -> tuple[Step, ...]:
    """The steps of "1,4,8", or the one of a rate. Raises RequestError for other words."""
    if rate is not None:
        return (Step(rate=rate),)
    words = [word.strip() for word in concurrency.split(",") if word.strip()]
    if not words or not all(word.isascii() and word.isdigit() for word in words):
        raise RequestError(
            f"--concurrency {concurrency[:80]!r} is no list of numbers. Give one like 1,4,8."
        )
    return tuple(Step(int(word[:9])) for word in words)


def check_plan(plan: LoadPlan) -> None:
    """Raises RequestError naming the first number that does not fit."""
    if not plan.steps:
        raise RequestError("The load test has no step. Give at least one, for example 1, 4, 8.")
    if plan.requests is None and plan.seconds is None:
        raise RequestError("A step would never end. Give a number of requests, seconds, or both.")
    _check(plan, _BOUNDS)
    for step in plan.steps:
        _check(step, _STEP_BOUNDS)
        if step.arrivals not in ("poisson", "constant"):
            raise RequestError(
                f"Arrivals are 'poisson' or 'constant', not {str(step.arrivals)[:40]!r}."
            )


def _check(holder: Any, bounds: tuple[tuple[str, float, float, str], ...]) -> None:
    for name, low, high, words in bounds:
        value = getattr(holder, name)
        if value is not None and not low <= value <= high:
            raise RequestError(f"{name}={value} {words}: give {low:g} to {high:g}.")


def base_url(target: Target) -> str:
    """The target's address without /v1 and an API's path: "http://host:8000".

    Raises RequestError for what is no plain http or https address.
    """
    url = target.url.strip()
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise RequestError(f"{url[:200]!r} is no address ({error}). {_FITS}") from None
    if parts.scheme not in PORTS or not host:
        raise RequestError(f"{url[:200]!r} is no http or https address. {_FITS}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise RequestError(
            f"The address of {host!r} holds a user, a query or a fragment. {_FITS} A key goes "
            "into api_key."
        )
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise RequestError(f"{url[:200]!r} has characters that no address has. {_FITS}")
    path = re.sub(r"/v1(/(chat/)?completions)?$", "", parts.path.rstrip("/"))
    return f"{parts.scheme}://{parts.netloc}{path}"


def find_endpoint(target: Target) -> Endpoint:
    """Check the target and resolve its host, once, so that no request waits for a name server.

    Raises RequestError.
    """
    parts = urlsplit(base_url(target))
    key = target.api_key or ""
    if not (key.isascii() and key.isprintable()):
        raise RequestError("The API key has characters that no header takes. Check how it is set.")
    if target.api not in PATHS:
        raise RequestError(f"The API is 'completions' or 'chat', not {str(target.api)[:40]!r}.")
    if not 0 < target.timeout <= 86400:
        raise RequestError(f"timeout={target.timeout} seconds: give more than 0, at most 86400.")
    if not target.model:
        raise RequestError("No model is named. Give the name that the server lists at /v1/models.")
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    return Endpoint(
        host=host,
        port=port,
        path=f"{parts.path}/v1{PATHS[target.api]}",
        addresses=_addresses(host, port),
        tls=ssl.create_default_context() if parts.scheme == "https" else None,
    )


def _addresses(host: str, port: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RequestError(
            f"No machine is called {host[:200]!r} ({error}). Check the address and the network."
        ) from None
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
