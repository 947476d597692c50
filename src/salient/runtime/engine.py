"""The generation engine, with continuous batching and chunked prefill.

A step computes a piece of the waiting prompts, then one more token of the running sequences. The
output of a sequence does not depend on the other sequences; small requests do not wait long for
large ones.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from math import log2
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import ModelError, RequestError, ResourceError

from .detokenizer import TextStream
from .grammar import Constraint, Grammars
from .runner import Runner
from .sampler import Sampler, greedy_batch
from .sampling_params import SampledToken, SamplingParams
from .sequence import CLASSES, StepOutput, TokenSequence, Turns, raise_failed
from .tokenization import check_length

CHUNK = 512  # prompt tokens computed at once, at most
LEAST_CHUNK = 32
PIECE_SECONDS = 1.0  # for those tokens: a request that comes then waits
STEP_SECONDS = 0.2  # of prompts in a step while small requests wait
MIN_COPY = 16  # shared prefix tokens from which on copying from another slot pays off


class Engine:
    """Runs sequences on a runner.

    runner: computes logits   tokenizer: of the model   ends: tokens that end an answer
    """

    def __init__(self, runner: Runner, tokenizer: Any, ends: frozenset[int]):
        self.runner, self.tokenizer, self.ends = runner, tokenizer, ends
        self._waiting: deque[TokenSequence] = deque()
        self._filling: list[TokenSequence] = []  # in the order of arrival
        self._running: list[TokenSequence] = []
        self._rate = float(CHUNK)  # prompt tokens a second
        self._oldest = False  # whether the last piece was of the oldest prompt
        self._turns = Turns()
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
        """A piece of the waiting prompts, one more token of the running sequences: of all, or of
        the smallest requests where others make a step long."""
        started = time.perf_counter()
        largest = self._turns.largest([*self._running, *self._prompts()])
        running = [answer for answer in self._running if answer.size <= largest]
        outputs = self._fill(largest) + (self._decode(running) if running else [])
        self._turns.add(largest, time.perf_counter() - started)
        return outputs

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
        taken = {answer.slot for answer in (*self._running, *self._filling)}
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

    def _prompts(self) -> list[TokenSequence]:
        """The prompts that can be computed."""
        return [*self._filling, *(self._waiting if self._free_slots() else ())]

    def _fill(self, largest: int) -> list[StepOutput]:
        """Compute prompts of requests up to a size class, for STEP_SECONDS."""
        outputs: list[StepOutput] = []
        until = time.perf_counter() + STEP_SECONDS
        while (answer := self._next_prompt(largest)) is not None:
            outputs += self._fill_piece(answer)
            if time.perf_counter() >= until:
                break
        return outputs

    def _next_prompt(self, largest: int) -> TokenSequence | None:
        """The prompt to compute a piece of: in turn the oldest and the shortest.

        A waiting one gets its slot only now, when what it shares with the prompts before it is in
        the cache.
        """
        prompts = [prompt for prompt in self._prompts() if prompt.size <= largest]
        if not prompts:
            return None
        self._oldest = not self._oldest
        shortest = min(prompts, key=lambda prompt: prompt.left // LEAST_CHUNK)
        answer = prompts[0] if self._oldest else shortest
        if answer.slot < 0:
            self._waiting.remove(answer)
            answer.slot, answer.reused = self._take_slot(self._free_slots(), answer.prompt)
            answer._done = answer.reused
            self._filling.append(answer)
        return answer

    def _fill_piece(self, answer: TokenSequence) -> list[StepOutput]:
        start, slot = answer._done, answer.slot
        piece = answer.prompt[
            start : start + self._chunk() if self.runner.chunked_prefill else None
        ]
        began = time.perf_counter()
        logits = self.runner.prefill(slot, piece, start)
        if len(piece) >= LEAST_CHUNK:
            self._rate = len(piece) / (time.perf_counter() - began)
        answer._done += len(piece)
        self._slot_tokens[slot] += piece
        if answer.left:
            return []
        self._filling.remove(answer)
        self._running.append(answer)
        return [self._take(answer, logits)]

    def _chunk(self) -> int:
        """Prompt tokens to compute at once: fewer while small requests wait for the step to end.

        A power of two: few different sizes, since the rounding of a product depends on them.
        """
        small = any(one.size < len(CLASSES) for one in (*self._prompts(), *self._running))
        most = self._rate * (STEP_SECONDS if small else PIECE_SECONDS)
        return min(CHUNK, 1 << round(log2(max(LEAST_CHUNK, most))))

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
        for sequences in (self._filling, self._running):
            if answer in sequences:
                sequences.remove(answer)


def common_start(cached: Sequence[int], prompt: Sequence[int]) -> int:
    """How many first tokens of `prompt` are in `cached`; the last is always computed."""
    most = min(len(cached), len(prompt) - 1)
    return next((i for i in range(most) if cached[i] != prompt[i]), most)
