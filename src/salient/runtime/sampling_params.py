"""Sampling parameters and their limits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from salient.core.errors import RequestError

COLDEST = 1e-5  # a lower temperature is greedy: float32 could not tell them apart
MOST_STOPS = 16

WHOLE, NUMBER = (int,), (int, float)
NONE = type(None)
# field, its types, what fits, what to do
LIMITS: tuple[tuple[str, tuple[type, ...], Callable[[Any], bool], str], ...] = (
    ("max_new_tokens", WHOLE, lambda n: n >= 1, "a whole number of at least 1."),
    (
        "temperature",
        NUMBER,
        lambda t: 0 <= t <= 100,
        "a number from 0 to 100: 0 takes the likeliest token each time, 1 draws from the model's "
        "own distribution.",
    ),
    (
        "top_p",
        NUMBER,
        lambda p: 0 < p <= 1,
        "a number above 0 and up to 1; 1 keeps every token, and temperature 0 only the likeliest.",
    ),
    ("top_k", WHOLE, lambda k: k >= 0, "a whole number of at least 1, or 0 for no limit."),
    ("min_p", NUMBER, lambda p: 0 <= p <= 1, "a number from 0 (keeps every token) to 1."),
    (
        "repetition_penalty",
        NUMBER,
        lambda r: 0.01 <= r <= 100,
        "a number from 0.01 to 100: 1 for none, 1.1 for a mild one.",
    ),
    ("presence_penalty", NUMBER, lambda p: -2 <= p <= 2, "a number from -2 to 2, 0 for none."),
    ("frequency_penalty", NUMBER, lambda p: -2 <= p <= 2, "a number from -2 to 2, 0 for none."),
    (
        "seed",
        (int, NONE),
        lambda s: s is None or -(2**63) <= s < 2**63,
        "a whole number of at most 64 bits, or None for another text each time.",
    ),
    ("ignore_eos", (bool,), lambda _: True, "True or False."),
    (
        "logprobs",
        (int, NONE),
        lambda n: n is None or 0 <= n <= 20,
        "a whole number from 0 (only the chosen token's) to 20, or None for none.",
    ),
)


@dataclass(frozen=True)
class SamplingParams:
    """Sampling parameters of one sequence.

    temperature: 0 is greedy. top_k: 0 is no limit. seed: None is random.
    stop: texts, stop_tokens: ids that end the answer. logprobs: how many of the likeliest tokens
    to report with each token; 0 reports the chosen one's alone, None nothing.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def check(self) -> None:
        """Raise RequestError for the first invalid field, with the valid range."""
        for name, types, fits, advice in LIMITS:
            value = getattr(self, name)
            # True is an int to Python, and a mistake to whoever asked for a number
            typed = isinstance(value, types) and (bool in types or not isinstance(value, bool))
            if not (typed and fits(value)):
                raise RequestError(f"{name}={value!r} cannot be used. Give {advice}")
        self._check_stops()

    def _check_stops(self) -> None:
        if not isinstance(self.stop, (tuple, list)):
            raise RequestError(
                f"stop={self.stop!r} is no list of strings. Give a list, even of one: "
                "stop=('END',)."
            )
        if len(self.stop) > MOST_STOPS:
            raise RequestError(
                f"{len(self.stop)} stop strings are too many. Give up to {MOST_STOPS}."
            )
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise RequestError(
                    f"stop holds {text!r}. Each stop string needs at least one character; leave "
                    "stop empty for none."
                )
        if not isinstance(self.stop_tokens, (tuple, list)):
            raise RequestError(
                f"stop_tokens={self.stop_tokens!r} is no list of token ids. Give a list, "
                "even of one: stop_tokens=(2,)."
            )
        for token in self.stop_tokens:
            if not isinstance(token, int) or isinstance(token, bool) or token < 0:
                raise RequestError(
                    f"stop_tokens holds {token!r}. Give token ids: whole numbers from 0."
                )

    @property
    def greedy(self) -> bool:
        """Whether the largest logit is taken, after the penalties."""
        return self.temperature < COLDEST

    @property
    def penalizes(self) -> bool:
        """Whether earlier tokens change the logits."""
        penalties = (self.repetition_penalty, self.presence_penalty, self.frequency_penalty)
        return penalties != (1, 0, 0)

    @property
    def plain(self) -> bool:
        """Whether sampling is the argmax of the logits, so that `greedy_batch` applies."""
        return self.greedy and not self.penalizes and self.logprobs is None


@dataclass(frozen=True)
class SampledToken:
    """A sampled token with its log-probability.

    logprob: nats; None where `logprobs` is None. top: the likeliest tokens, likeliest first; the
    chosen one need not be among them.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
