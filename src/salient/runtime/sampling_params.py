"""Sampling parameters and their limits."""

import math
from dataclasses import dataclass, fields, replace

from salient.core.errors import RequestError

COLDEST = 1e-5  # a lower temperature is greedy: float32 could not tell them apart
MOST_STOPS = 16

INTEGER, NUMBER = (int,), (int, float)
OPTIONAL_INTEGER = (int, type(None))
# Field -> its types, least and greatest value, valid values.
LIMITS: dict[str, tuple[tuple[type, ...], float, float, str]] = {
    "max_new_tokens": (INTEGER, 1, math.inf, "an integer of at least 1"),
    "temperature": (NUMBER, 0, 100, "a number from 0 (greedy) to 100"),
    "top_p": (NUMBER, math.nextafter(0, 1), 1, "a number above 0 and up to 1 (all tokens)"),
    "top_k": (INTEGER, 0, math.inf, "an integer of at least 1, or 0 for no limit"),
    "min_p": (NUMBER, 0, 1, "a number from 0 (all tokens) to 1"),
    "repetition_penalty": (NUMBER, 0.01, 100, "a number from 0.01 to 100: 1 is off, 1.1 is mild"),
    "presence_penalty": (NUMBER, -2, 2, "a number from -2 to 2; 0 is off"),
    "frequency_penalty": (NUMBER, -2, 2, "a number from -2 to 2; 0 is off"),
    "seed": (OPTIONAL_INTEGER, -(2**63), 2**63 - 1, "a 64-bit integer, or None for a random seed"),
    "ignore_eos": ((bool,), 0, 1, "True or False"),
    "logprobs": (
        OPTIONAL_INTEGER,
        0,
        20,
        "an integer from 0 (only the chosen token's) to 20, or None for none",
    ),
}


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
        for name, (types, least, most, valid) in LIMITS.items():
            value = getattr(self, name)
            # True is an int to Python, but a mistake where a number is expected
            typed = isinstance(value, types) and (bool in types or not isinstance(value, bool))
            if not (typed and (value is None or least <= value <= most)):
                raise RequestError(f"{name}={value!r} cannot be used. Give {valid}.")
        for name, items, example in (
            ("stop", "strings", "('END',)"),
            ("stop_tokens", "token ids", "(2,)"),
        ):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)):
                raise RequestError(
                    f"{name}={value!r} is not a list of {items}. Give a list, even of one: "
                    f"{name}={example}."
                )
        if len(self.stop) > MOST_STOPS:
            raise RequestError(
                f"{len(self.stop)} stop strings are too many. Give up to {MOST_STOPS}."
            )
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise RequestError(
                    f"stop contains {text!r}. Each stop string needs at least one character; leave "
                    "stop empty for none."
                )
        for token in self.stop_tokens:
            if not isinstance(token, int) or isinstance(token, bool) or token < 0:
                raise RequestError(
                    f"stop_tokens contains {token!r}. Give token ids: integers from 0."
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


def sampling_of(options: object, defaults: SamplingParams | None = None) -> SamplingParams:
    """`defaults` with the fields of `options` of the same name that are not None."""
    values = {field.name: getattr(options, field.name, None) for field in fields(SamplingParams)}
    changes = {name: value for name, value in values.items() if value is not None}
    return replace(defaults or SamplingParams(), **changes)


@dataclass(frozen=True)
class SampledToken:
    """A sampled token with its log-probability.

    logprob: nats; None where `logprobs` is None. top: the likeliest tokens, likeliest first; the
    chosen one need not be among them.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
