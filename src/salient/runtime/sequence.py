"""A prompt with its answer, the output of a step for it, and which answers a step continues."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from salient.core.errors import ModelError

from .detokenizer import TextStream
from .sampler import Sampler
from .sampling_params import SampledToken, SamplingParams

CLASSES = (16, 64)  # tokens of the requests of class 0 and 1; class 2 has more
PROMPT_WORK = 16  # prompt tokens that cost as much as one token of an answer
SPLIT = 2.0  # small requests get their own steps where a step of all takes so many times as long


def size_class(prompt_tokens: int, limit: int) -> int:
    """0, 1 or 2: how large a request is; small ones go first and have slots of their own.

    limit: tokens of the answer at most
    """
    work = prompt_tokens // PROMPT_WORK + limit
    return next((i for i, most in enumerate(CLASSES) if work <= most), len(CLASSES))


@dataclass(frozen=True)
class StepOutput:
    """The output of one step for one sequence.

    picked: None where the answer failed
    finished: '' while it runs; 'stop' (its end, a stop token or string), 'length', 'cancelled',
        'failed' (see the answer's `error`)
    """

    sequence: "TokenSequence"
    text: str
    picked: SampledToken | None
    finished: str


@dataclass(eq=False)
class TokenSequence:
    """A prompt and its answer.

    tokens: of the answer, without the one that ended it   reused: prompt tokens not computed again
    started, times: seconds of time.perf_counter(), of submission and of each token
    """

    prompt: list[int]
    sampling: SamplingParams
    limit: int
    sampler: Sampler
    stream: TextStream
    tokens: list[int] = field(default_factory=list)
    picked: list[SampledToken] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    finished: str = ""
    error: ModelError | None = None
    reused: int = 0
    started: float = field(default_factory=time.perf_counter)
    slot: int = -1
    _done: int = 0  # prompt tokens that are computed

    @property
    def text(self) -> str:
        return self.stream.text

    @cached_property
    def size(self) -> int:
        """Its size class."""
        return size_class(len(self.prompt), self.limit)

    @property
    def left(self) -> int:
        """Prompt tokens that are not computed."""
        return len(self.prompt) - self._done

    @property
    def seconds_to_first(self) -> float:
        return self.times[0] - self.started if self.times else float("nan")

    @property
    def tokens_a_second(self) -> float | None:
        """Of the tokens after the first; None with fewer than two."""
        seconds = self.times[-1] - self.times[0] if self.times else 0.0
        return (len(self.times) - 1) / seconds if seconds > 0 else None


def raise_failed(answers: Iterable[TokenSequence]) -> None:
    """Raise the ModelError of the first answer that failed."""
    for answer in answers:
        if answer.error is not None:
            raise answer.error


@dataclass
class Turns:
    """Which sequences a step continues: all, or only those of the smallest size class.

    Those get steps of their own where a step of all takes SPLIT times as long, and as much time as
    the last step of all took.

    all_seconds, small_seconds: of the last step of each kind; spent: of the small ones since then
    """

    all_seconds: float = 0.0
    small_seconds: float = 0.0
    spent: float = 0.0

    def largest(self, sequences: Iterable[TokenSequence]) -> int:
        """The largest size class of the next step."""
        sizes = {sequence.size for sequence in sequences}
        if len(sizes) < 2:
            return len(CLASSES)
        slow = self.all_seconds > SPLIT * self.small_seconds
        return min(sizes) if slow and self.spent < self.all_seconds else len(CLASSES)

    def add(self, largest: int, seconds: float) -> None:
        """Record a step."""
        if largest == len(CLASSES):
            self.all_seconds, self.spent = seconds, 0.0
        else:
            self.small_seconds = seconds
            self.spent += seconds
