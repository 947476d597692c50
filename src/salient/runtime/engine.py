"""The generation engine, with continuous batching and chunked prefill.

A step computes one chunk of one waiting prompt, and one more token of every running sequence. The
output of a sequence does not depend on the other sequences.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import ModelError, RequestError, ResourceError

from .detokenizer import TextStream
from .grammar import Constraint, Grammars
from .runner import Runner
from .sampler import Sampler, greedy_batch
from .sampling_params import SampledToken, SamplingParams
from .tokenization import check_length


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


CHUNK = 512  # tokens of a prefill chunk: bounds how long running sequences wait
MIN_COPY = 16  # shared prefix tokens from which on copying from another slot pays off


class Engine:
    """Runs sequences on a runner.

    runner: computes logits   tokenizer: of the model   ends: tokens that end an answer
    """

    def __init__(self, runner: Runner, tokenizer: Any, ends: frozenset[int]):
        self.runner, self.tokenizer, self.ends = runner, tokenizer, ends
        self._waiting: deque[TokenSequence] = deque()
        self._filling: TokenSequence | None = None
        self._running: list[TokenSequence] = []
        self._slot_tokens: list[list[int]] = [[] for _ in range(runner.slots)]
        self._used = [0] * runner.slots  # when each slot was last given away
        self._count = 0

    @property
    def busy(self) -> bool:
        """Whether a step has anything to do."""
        return bool(self._waiting or self._filling or self._running)

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        return self.runner.capacity

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values are in the slots, of running and earlier sequences."""
        return sum(map(len, self._slot_tokens))

    @cached_property
    def grammars(self) -> Grammars:
        """Compiles grammars. Raises MissingExtra without llguidance."""
        return Grammars(self.tokenizer, self.runner.vocabulary, self.ends)

    def submit(
        self, ids: Sequence[int], sampling: SamplingParams, constraint: Constraint | None = None
    ) -> TokenSequence:
        """Queue a prompt of token ids; `constraint` is this answer's own.

        Raises RequestError for invalid parameters or a prompt that does not fit.
        """
        sampling.check()
        if not ids:
            raise RequestError("The prompt has no tokens. Give at least one.")
        self.check_known(ids)
        limit = check_length(ids, sampling.max_new_tokens, self.context)
        sampler = Sampler(sampling, ids, constraint)
        stream = TextStream(self.tokenizer, ids, sampling.stop)
        answer = TokenSequence(list(ids), sampling, limit, sampler, stream)
        self._waiting.append(answer)
        return answer

    def cancel(self, answer: TokenSequence) -> None:
        """Stop an answer; its slot is free at once."""
        if answer.finished:
            return
        if answer in self._waiting:
            self._waiting.remove(answer)
        self._finish(answer, "cancelled")

    def clear_cache(self) -> None:
        """Mark all slots as empty, so that the caller can compute in them.

        Raises RequestError while sequences run.
        """
        if self.busy:
            raise RequestError("The engine is busy with answers. Wait for them, then ask again.")
        self._slot_tokens = [[] for _ in self._slot_tokens]

    def logits(self, ids: Sequence[int], last: int) -> Tensor:
        """Logits float32 [last, vocab] after each of the last of `ids`; other sequences may run.

        Raises RequestError for too many tokens, ResourceError if no slot is free.
        """
        tokens = list(ids)
        self.check_known(tokens)
        if not 1 <= last <= len(tokens) <= self.context:
            raise RequestError(f"{last} of {len(tokens)} tokens: give 1 to {self.context}.")
        free = self._free_slots()
        if not free:
            raise ResourceError("Every slot is taken by an answer under way. Try again shortly.")
        slot, start = self._take_slot(free, tokens[: len(tokens) - last + 1])
        rows: list[Tensor] = []
        while start < len(tokens):
            piece = tokens[start : start + CHUNK if self.runner.chunked_prefill else None]
            start += len(piece)
            count = min(len(piece), max(1, start + last - len(tokens)))
            rows.append(self.runner.logits(slot, piece, start - len(piece), count))
            self._slot_tokens[slot] += piece
        return torch.cat(rows)[-last:]

    def step(self) -> list[StepOutput]:
        """One piece of a waiting prompt, one more token of each running sequence."""
        running = list(self._running)
        if self._filling is None and self._waiting and (free := self._free_slots()):
            # the first waiting prompt, into the free slot with the longest shared prefix
            answer = self._filling = self._waiting.popleft()
            answer.slot, answer.reused = self._take_slot(free, answer.prompt)
            answer._done = answer.reused
        pieces = self._fill(self._filling) if self._filling is not None else []
        return pieces + (self._decode(running) if running else [])

    def stream(self, ids: Sequence[int], sampling: SamplingParams) -> Iterator[StepOutput]:
        """The pieces of one answer as they come; leaving the loop early cancels it."""
        answer = self.submit(ids, sampling)
        try:
            while not answer.finished:
                yield from (piece for piece in self.step() if piece.sequence is answer)
        finally:
            self.cancel(answer)
        raise_failed([answer])

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: SamplingParams
    ) -> list[TokenSequence]:
        """The answers to several prompts, computed together."""
        answers = [self.submit(ids, sampling) for ids in prompts]
        while not all(answer.finished for answer in answers):
            self.step()
        raise_failed(answers)
        return answers

    def check_known(self, ids: Iterable[int]) -> None:
        """Raise RequestError for a token that the model does not have."""
        tokens = list(ids)
        lowest, highest = min(tokens, default=0), max(tokens, default=0)
        unknown = lowest if lowest < 0 else highest
        if not 0 <= unknown < self.runner.vocabulary:
            raise RequestError(
                f"There is the token {unknown}, but the model knows 0 to "
                f"{self.runner.vocabulary - 1}. Give ids of the model's own tokenizer."
            )

    def _free_slots(self) -> list[int]:
        taken = {a.slot for a in (*self._running, self._filling) if a is not None}
        return [slot for slot in range(self.runner.slots) if slot not in taken]

    def _take_slot(self, free: list[int], ids: list[int]) -> tuple[int, int]:
        """A slot of `free` for `ids`, and how many of them it already contains, never all."""
        shared = [common_start(cached, ids) for cached in self._slot_tokens]
        slot = max(free, key=lambda s: (shared[s], -self._used[s]))
        best = max(range(len(shared)), key=lambda s: shared[s])
        if not self.runner.reuses_prefixes:
            reused = 0
        elif shared[best] >= shared[slot] + MIN_COPY:
            slot = min(free, key=lambda s: self._used[s])
            self.runner.copy(best, slot, shared[best])
            reused = shared[best]
        else:
            reused = shared[slot]
        self._count += 1
        self._used[slot] = self._count
        self._slot_tokens[slot] = ids[:reused]
        return slot, reused

    def _fill(self, answer: TokenSequence) -> list[StepOutput]:
        start, slot = answer._done, answer.slot
        piece = answer.prompt[start : start + CHUNK if self.runner.chunked_prefill else None]
        logits = self.runner.prefill(slot, piece, start)
        answer._done += len(piece)
        self._slot_tokens[slot] += piece
        if answer._done < len(answer.prompt):
            return []
        self._filling = None
        self._running.append(answer)
        return [self._take(answer, logits)]

    def _decode(self, running: list[TokenSequence]) -> list[StepOutput]:
        """One more token of each: the last one chosen goes in, the next comes out."""
        slots = [answer.slot for answer in running]
        tokens = [answer.picked[-1].token for answer in running]
        logits = self.runner.decode(slots, tokens, [len(self._slot_tokens[slot]) for slot in slots])
        for slot, token in zip(slots, tokens, strict=True):
            self._slot_tokens[slot].append(token)
        plain = [n for n, answer in enumerate(running) if answer.sampler.plain]
        rows = logits if len(plain) == len(running) else logits[plain]
        largest = dict(zip(plain, greedy_batch(rows), strict=True)) if plain else {}
        return [self._take(running[n], row, largest.get(n)) for n, row in enumerate(logits)]

    def _take(self, answer: TokenSequence, logits: Tensor, token: int | None = None) -> StepOutput:
        """Add `token`, or one chosen from its logits, to an answer, or end it there."""
        try:
            picked = answer.sampler.pick(logits) if token is None else SampledToken(token)
        except ModelError as error:  # logits are not finite; the other sequences continue
            answer.error = error
            self._finish(answer, "failed")
            return StepOutput(answer, answer.stream.finish(), None, "failed")
        answer.times.append(time.perf_counter())
        answer.picked.append(picked)
        sampling, token = answer.sampling, picked.token
        if token in sampling.stop_tokens or (token in self.ends and not sampling.ignore_eos):
            return self._end(answer, "", picked, "stop")
        answer.tokens.append(token)
        text = answer.stream.push(token)
        constraint = answer.sampler.constraint
        if answer.stream.stopped_by is not None or (constraint is not None and constraint.ended):
            return self._end(answer, text, picked, "stop")
        if len(answer.tokens) >= answer.limit:
            return self._end(answer, text, picked, "length")
        return StepOutput(answer, text, picked, "")

    def _end(self, answer: TokenSequence, text: str, picked: SampledToken, why: str) -> StepOutput:
        text += answer.stream.finish()
        self._finish(answer, "stop" if answer.stream.stopped_by is not None else why)
        return StepOutput(answer, text, picked, answer.finished)

    def _finish(self, answer: TokenSequence, why: str) -> None:
        answer.finished = why
        if self._filling is answer:
            self._filling = None
        if answer in self._running:
            self._running.remove(answer)


def common_start(cached: Sequence[int], prompt: Sequence[int]) -> int:
    """How many first tokens of `prompt` are in `cached`; the last is always computed."""
    most = min(len(cached), len(prompt) - 1)
    return next((i for i in range(most) if cached[i] != prompt[i]), most)
