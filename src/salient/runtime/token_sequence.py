"""A sequence: its prompt, tokens and state; the output of a step."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from salient.core.errors import ModelError

from .detokenizer import TextStream
from .sampler import Sampler
from .sampling_params import SampledToken, SamplingParams


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
        """The text of the answer so far."""
        return self.stream.text

    @property
    def seconds_to_first(self) -> float:
        """Time to first token."""
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
