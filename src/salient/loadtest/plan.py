"""The server, steps and prompts of a load test, checked before the first request.

Each prompt begins with a number of its own, with reversed digits, so that no two in a row begin
alike: servers that reuse prefixes token by token would otherwise save the leading zeros.
"""

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from typing import Literal
from urllib.parse import urlsplit

from salient.core.corpus import builtin
from salient.core.errors import RequestError

Api = Literal["completions", "chat"]
API_PATHS: dict[Api, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
MAX_CONCURRENCY = 1000  # connections of one process: most systems allow 1024 open files
_EXAMPLE = "Use one like http://localhost:8000."


@dataclass(frozen=True)
class LoadTarget:
    """A server and its API.

    url: "http://host:8000", with or without /v1
    model: the served name; "" stands for the first that the server lists
    api_key: sent as a bearer token; timeout: seconds for a whole request
    """

    url: str
    model: str = ""
    api: Api = "completions"
    api_key: str | None = field(default=None, repr=False)
    timeout: float = 300.0


@dataclass(frozen=True)
class LoadStep:
    """One pattern of requests.

    concurrency: requests in flight at most
    rate: requests per second, a Poisson process; None sends the next as soon as one has ended
    """

    concurrency: int = MAX_CONCURRENCY
    rate: float | None = None

    @property
    def label(self) -> str:
        """ "4 at once", "2.5 requests/s"."""
        if self.rate is not None:
            return f"{self.rate:g} requests/s"
        return f"{self.concurrency or 'all'} at once"

    def arrivals(self, seed: int) -> Iterator[float]:
        """Seconds after the step's start at which each request is due, without end.

        Without a rate all are due at once. With one, the first is due at 0 and the gaps are
        exponential, with the mean 1 / rate.
        """
        generator, due = random.Random(seed), 0.0
        while True:
            yield due
            due += generator.expovariate(self.rate) if self.rate else 0.0


@dataclass(frozen=True)
class LoadPlan:
    """The steps, run one after another, and the requests of each.

    requests, seconds: a step starts no request after either; one of them may be None
    warmups: uncounted requests before each step
    ignore_eos: request all output tokens; servers that refuse unknown fields need it off
    seed: of arrivals and prompts. Use another one for a second run against the same server, whose
        prefix cache holds the prompts of the first.
    text: source of the prompts; '' is the built-in held-out text
    """

    steps: tuple[LoadStep, ...] = (LoadStep(1), LoadStep(4), LoadStep(8))
    requests: int | None = 64
    seconds: float | None = None
    warmups: int = 2
    prompt_tokens: int = 256
    output_tokens: int = 128
    ignore_eos: bool = True
    seed: int = 0
    text: str = field(default="", repr=False)


_BOUNDS = {  # of a field: smallest, largest, meaning
    "requests": (1, 1_000_000, "requests of a step"),
    "seconds": (0.001, 7 * 86400, "seconds of a step"),
    "warmups": (0, 1_000_000, "warm-up requests"),
    "prompt_tokens": (1, 2**20, "tokens of a prompt"),
    "output_tokens": (1, 2**20, "tokens of an answer"),
    "concurrency": (1, MAX_CONCURRENCY, "requests at once"),
    "rate": (1e-4, 1e5, "requests per second"),
    "timeout": (1e-3, 86400, "seconds of a request"),
}


def check_plan(plan: LoadPlan) -> None:
    """Raises RequestError that names the first number out of bounds."""
    if not plan.steps:
        raise RequestError("The load test has no step. Use at least one, for example 1, 4, 8.")
    if plan.requests is None and plan.seconds is None:
        raise RequestError("A step would never end. Set a number of requests, seconds, or both.")
    for record in (plan, *plan.steps):
        _check_bounds(record)


def _check_bounds(record: LoadPlan | LoadStep | LoadTarget) -> None:
    for name, (low, high, meaning) in _BOUNDS.items():
        value = getattr(record, name, None)
        if value is not None and not low <= value <= high:
            raise RequestError(f"{name}={value} {meaning}: use {low:g} to {high:g}.")


def check_target(target: LoadTarget) -> None:
    """Raises RequestError for an address, key or timeout that no request could have."""
    base_url(target)
    _check_bounds(target)
    key = target.api_key or ""
    if not (key.isascii() and key.isprintable()):
        raise RequestError("The API key has characters that no header takes. Check how it is set.")


def base_url(target: LoadTarget) -> str:
    """The target's address without /v1 and an API's path: "http://host:8000".

    Raises RequestError for anything but a plain http or https address.
    """
    url = target.url.strip()
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise RequestError(f"{url[:200]!r} is not an address ({error}). {_EXAMPLE}") from None
    plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not host or not plain:
        raise RequestError(f"{url[:200]!r} is not an http or https address. {_EXAMPLE}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise RequestError(
            f"The address of {host!r} has a user, a query or a fragment. {_EXAMPLE} A key goes "
            "into OPENAI_API_KEY (in Python: api_key)."
        )
    path = re.sub(r"/v1(/(chat/)?completions)?$", "", parts.path.rstrip("/"))
    return f"{parts.scheme}://{parts.netloc}{path}"


TokenCounter = Callable[[str], int]
EXCERPTS = 16  # pieces of text that the numbered prompts share
DIGITS = 10


def numbered_prompts(plan: LoadPlan, count_tokens: TokenCounter | None = None) -> Iterator[str]:
    """The plan's prompts, without end. Raises RequestError for a text without words."""
    excerpts = cut_excerpts(plan.text, plan.prompt_tokens, plan.seed, count_tokens)
    numbers = count(plan.seed * 1_000_003)
    return (numbered(excerpts[number % len(excerpts)], number) for number in numbers)


def numbered(excerpt: str, number: int) -> str:
    """The prompt with this number, of which the last ten digits count."""
    return f"{number % 10**DIGITS:0{DIGITS}d}"[::-1] + " " + excerpt


def cut_excerpts(
    text: str, tokens: int, seed: int, count_tokens: TokenCounter | None = None
) -> tuple[str, ...]:
    """Pieces of `text` that make prompts of about `tokens` tokens once they are numbered.

    With `count_tokens` no prompt is longer than requested, unless one word is. Without it a word
    counts as a token, which makes prompts longer than requested; results report the server's own
    count.

    Raises RequestError for a text without words.
    """
    terms = (text or "\n".join(document.text for document in builtin("heldout"))).split()
    if not terms:
        raise RequestError("The text for prompts has no words. Use one with a few pages.")
    generator = random.Random(seed)
    starts = [generator.randrange(len(terms)) for _ in range(EXCERPTS)]
    return tuple(_excerpt(terms, start, tokens, count_tokens) for start in starts)


def _excerpt(terms: list[str], start: int, tokens: int, count_tokens: TokenCounter | None) -> str:
    rotated = terms[start:] + terms[:start]

    def first(count: int) -> str:
        return " ".join(islice(cycle(rotated), count))

    def prompt_tokens(count: int) -> int:
        return count_tokens(numbered(first(count), 0)) if count_tokens else count + 1

    # the most words that fit; a word has at least one token
    return first(bisect_right(range(1, tokens + 1), tokens, key=prompt_tokens))
