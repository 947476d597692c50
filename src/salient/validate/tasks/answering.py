"""A model answers examples: choices by their likelihood, everything else in writing.

A choice is the one with the largest log-probability, summed over its tokens and not divided by its
length: `acc` in EleutherAI's lm-evaluation-harness, not `acc_norm`. Choices of the bundled sets are
words, numbers and sentences that differ in one word; there the probability is what the model says,
and a division only favours long names. The 16-bit demo model is right more often without it (77 %
against 69 % of `knowledge`, 95 % against 89 % of `language`, as often in `code` and `reasoning`).

A written answer is greedy. It is the first line that holds more than white space.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from salient.core.devices import find_device, free_memory
from salient.core.errors import CalibrationError, RequestError, ResourceError
from salient.core.system import release_memory
from salient.models.tokens import load_tokenizer
from salient.runtime.engine import Engine
from salient.runtime.load_engine import EngineOptions, LoadedEngine
from salient.runtime.loglikelihood import ChoiceRequest, Continuations, encode, encode_choices
from salient.runtime.sampling_params import SamplingParams
from salient.runtime.sequence import TokenSequence, raise_failed
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ROOM, PairMember

from .comparison import TaskOutcome
from .result import Throughput
from .scoring import Example, choose, score

LONGEST_ANSWER = 2000  # characters of an answer in the results
SLOTS = 16  # sequences at once; twice as many were no faster on two cores
SHARE = 0.5  # of the memory next to the weights, what keys and values may take


@dataclass(frozen=True)
class TaskQuestion:
    """An example as tokens: its prompt's, and those of each choice, none for a written answer."""

    example: Example
    tokens: ChoiceRequest

    def positions(self, max_new_tokens: int) -> int:
        """Positions that the prompt and its answer take."""
        longest = max(map(len, self.tokens.continuations), default=max_new_tokens)
        return len(self.tokens.context) + longest


@dataclass(frozen=True)
class ModelAnswer:
    """A model's answers, and the tokens that were computed for them.

    answers: the text that was written or chosen, or other plain JSON
    """

    answers: list[object]
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class TimedAnswers(ModelAnswer):
    """Answers as the cache holds them, with their time and how the model ran."""

    seconds: float
    runs_as: str


class Examinee:
    """A model that answers; a prompt and its answer have `context` positions.

    The engine is opened when the cache lacks an answer: a reference that has answered everything
    needs no memory. slots: sequences at once; None: as many as fit
    """

    def __init__(
        self,
        side: PairMember,
        cache: ValidationCache,
        device: str,
        context: int,
        slots: int | None = None,
    ):
        self.side, self.cache, self.context, self.device = side, cache, context, device
        self.slots = slots
        self.tokenizer = load_tokenizer(side.companions)
        self.throughput = Throughput()
        self._opened: LoadedEngine | None = None

    @property
    def engine(self) -> Engine:
        """Raises ResourceError where the model has no room."""
        if self._opened is None:
            slots = self.slots or slots_that_fit(self.side, self.device, self.context)
            options = EngineOptions(device=self.device, context_length=self.context, slots=slots)
            self._opened = self.side.open_engine(options)
        return self._opened.engine

    def part(
        self, name: str, requests: object, answer: Callable[[Engine], ModelAnswer], **settings: int
    ) -> list[Any]:
        """The answers that `answer` returns, or returned when the cache stored them.

        requests: what is answered, as plain JSON   settings: what else the answers depend on
        """
        before = self.cache.reused
        digest = hashlib.sha256(json.dumps(requests).encode()).hexdigest()
        part = self.cache.part(
            name,
            {"model": self.side.fingerprint, "requests": digest, **settings},
            lambda: self._timed(answer),
            TimedAnswers,
            shared=self.side.role == "reference",
        )
        total = self.throughput
        total.parts += 1
        total.cached += self.cache.reused - before
        total.seconds += part.seconds
        total.prompt_tokens += part.prompt_tokens
        total.new_tokens += part.new_tokens
        total.runs_as = part.runs_as
        return part.answers

    def _timed(self, answer: Callable[[Engine], ModelAnswer]) -> TimedAnswers:
        engine = self.engine
        start = time.perf_counter()
        try:
            answers = answer(engine)
        except torch.OutOfMemoryError:
            raise ResourceError(
                f"{self.side.name} ran out of the device's memory while it answered. Measure it on "
                "a larger device, or with --device cpu."
            ) from None
        seconds = time.perf_counter() - start
        return TimedAnswers(**vars(answers), seconds=seconds, runs_as=engine.runner.how)

    def close(self) -> None:
        """Release the model's memory."""
        if self._opened is not None:
            self._opened = None
            release_memory()


def slots_that_fit(side: PairMember, device: str, context: int) -> int:
    """SLOTS, or as many as have room for their keys and values next to the weights; at least 1."""
    config = side.skeleton.model.config.get_text_config()
    free = free_memory(find_device(device)) - int(side.source.bytes_on_disk * ROOM)
    heads = getattr(config, "num_attention_heads", None) or 1
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    dim = getattr(config, "head_dim", None) or side.skeleton.width // heads
    slot = 4 * len(side.skeleton.blocks) * kv_heads * dim * context  # keys and values, 16 bits
    return max(1, min(SLOTS, int(free * SHARE / slot)))


def encode_question(example: Example, tokenizer: Any) -> TaskQuestion:
    """`example` as tokens. Raises CalibrationError for a prompt or choice without tokens.

    Spaces at a prompt's end belong to the next token.
    """
    try:
        if example.choices:
            tokens = encode_choices(tokenizer, example.context, example.continuations)
            return TaskQuestion(example, tokens)
    except RequestError as error:
        raise CalibrationError(f"{example.id}: {error}") from None
    ids = encode(tokenizer, example.prompt.rstrip(" \t"))
    if not ids:
        raise CalibrationError(f"{example.id}: the prompt has no tokens. Give at least one word.")
    return TaskQuestion(example, ChoiceRequest(ids, []))


def answer_questions(
    engine: Engine, questions: Sequence[TaskQuestion], max_new_tokens: int
) -> ModelAnswer:
    """The answers to some questions, computed together.

    Raises ModelError where the model gives no numbers, RequestError where it has no room.
    """
    choices = [q for q in questions if q.example.choices]
    continuations = Continuations(engine)
    likelihoods = continuations.score([q.tokens for q in choices])
    chosen = iter([_chosen(q.example, each) for q, each in zip(choices, likelihoods, strict=True)])
    prompts = [q.tokens.context for q in questions if not q.example.choices]
    written = write_answers(
        engine, prompts, SamplingParams(max_new_tokens), lambda text: "\n" in text.lstrip()
    )
    lines = iter([first_line(each.text) for each in written])
    return ModelAnswer(
        [next(chosen if q.example.choices else lines) for q in questions],
        continuations.computed + sum(len(each.prompt) - each.reused for each in written),
        sum(len(each.tokens) for each in written),
    )


def outcome(example: Example, answer: str) -> TaskOutcome:
    """A model's answer, scored. Raises CalibrationError for a pattern that takes too long."""
    if example.answer is not None:
        return TaskOutcome(answer, answer == example.choices[example.answer])
    return TaskOutcome(answer, score(example, answer))


def first_line(text: str) -> str:
    """The first line that is not blank, LONGEST_ANSWER characters at most."""
    return text.lstrip().partition("\n")[0].rstrip()[:LONGEST_ANSWER]


def write_answers(
    engine: Engine,
    prompts: Sequence[list[int]],
    sampling: SamplingParams,
    done: Callable[[str], bool],
) -> list[TokenSequence]:
    """What the model writes after each prompt, computed together, until `done` of the text.

    Prompts that begin alike follow each other, so that they share their prefix.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    sequences = {number: engine.submit(prompts[number], sampling) for number in order}
    while engine.busy:
        for output in engine.step():
            if not output.finished and done(output.sequence.text):
                engine.cancel(output.sequence)
    raise_failed(sequences.values())
    return [sequences[number] for number in range(len(prompts))]


def _chosen(example: Example, likelihoods: Sequence[Any]) -> str:
    lengths = [len(choice.encode()) for choice in example.choices]
    logprobs = [likelihood.logprob for likelihood in likelihoods]
    return example.choices[choose(logprobs, lengths, normalized=False)]
