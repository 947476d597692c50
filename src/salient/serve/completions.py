"""A request of the API from its body to its response: prompts in, choices out, streamed or not."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from salient.core.errors import ResourceError, SalientError
from salient.runtime.engine import Engine
from salient.runtime.grammar import Constraint
from salient.runtime.sampling_params import SamplingParams
from salient.runtime.token_sequence import StepOutput
from salient.runtime.tokenization import chat_ids, check_length, prompt_ids

from .error_responses import INTERNAL, body_of
from .openai_format import ChoiceState, chat_logprobs, completion_logprobs, usage
from .prometheus import Clock, Metrics
from .protocol import DEFAULT_TOKENS, BaseRequest, ChatCompletionRequest, CompletionRequest
from .worker import Ticket, Worker


@dataclass(frozen=True)
class CompletionJob:
    """What a request asks of the engine: prompts, and the sampling of each choice of each.

    constraint: what every answer must be, for each of them to take afresh
    """

    prompts: list[list[int]]
    samplings: list[SamplingParams]
    kind: str  # "text_completion" or "chat.completion"
    logprobs: bool
    prefix: str
    constraint: Constraint | None = None
    token_ids: bool = False

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))


def completion_job(asked: CompletionRequest, engine: Engine) -> CompletionJob:
    """Raises RequestError for what cannot be run."""
    prompts = [prompt_ids(engine.tokenizer, p) if isinstance(p, str) else p for p in asked.prompts]
    limit = asked.max_tokens or DEFAULT_TOKENS
    samplings = [asked.sampling(limit, asked.logprobs, n) for n in range(asked.choices)]
    _check(prompts, limit, engine)
    wanted, held = asked.logprobs is not None, _constraint(asked, engine)
    ids = bool(asked.return_token_ids)
    return CompletionJob(prompts, samplings, "text_completion", wanted, "cmpl", held, ids)


def chat_job(asked: ChatCompletionRequest, engine: Engine) -> CompletionJob:
    """Raises RequestError for what cannot be run."""
    ids = chat_ids(engine.tokenizer, [message.plain for message in asked.messages])
    limit = asked.limit or max(1, engine.context - len(ids))
    wanted = asked.wanted_logprobs
    samplings = [asked.sampling(limit, wanted, n) for n in range(asked.choices)]
    _check([ids], limit, engine)
    held, told = _constraint(asked, engine), bool(asked.return_token_ids)
    return CompletionJob(
        [ids], samplings, "chat.completion", wanted is not None, "chatcmpl", held, told
    )


def _constraint(asked: BaseRequest, engine: Engine) -> Constraint | None:
    form = asked.response_format
    if form is None or form.type == "text":
        return None
    return engine.grammars.json(form.json_schema.schema_ if form.json_schema else None)


def _check(prompts: Sequence[Sequence[int]], limit: int, engine: Engine) -> None:
    for ids in prompts:
        check_length(ids, limit, engine.context)


class Service:
    """Answers requests with a worker's engine under the name `model`."""

    def __init__(self, worker: Worker, model: str, metrics: Metrics):
        self.worker, self.model, self.metrics = worker, model, metrics
        self.created = int(time.time())

    def enter(self, job: CompletionJob) -> "RunningJob":
        """Let a job in. Raises ResourceError where too many wait."""
        self.worker.admit(len(job.prompts) * len(job.samplings))
        held = job.constraint
        tickets = [
            self.worker.submit(prompt, sampling, held and held.fresh())
            for prompt in job.prompts
            for sampling in job.samplings
        ]
        return RunningJob(self, job, tickets)


class RunningJob:
    """A job under way. Leave it with `close`: what has not ended is cancelled."""

    def __init__(self, service: Service, job: CompletionJob, tickets: list[Ticket]):
        self.service, self.job, self.tickets = service, job, tickets
        tokenizer = service.worker.engine.tokenizer
        self.choices = [ChoiceState(n, tokenizer) for n in range(len(tickets))]
        each = len(job.samplings)
        self._clocks = [
            Clock(service.metrics, len(job.prompts[n // each]) if n % each == 0 else 0)
            for n in range(len(tickets))
        ]
        self._head = {
            "id": f"{job.prefix}-{uuid.uuid4().hex}",
            "object": job.kind,
            "created": int(time.time()),
            "model": service.model,
        }

    def close(self) -> None:
        """Cancel what has not ended."""
        for ticket in self.tickets:
            self.service.worker.cancel(ticket)

    async def whole(self) -> dict[str, Any]:
        """The response of a request that does not stream. Raises SalientError."""
        async for _ in self._pieces():
            pass
        return {
            **self._head,
            "choices": [self._whole_choice(choice) for choice in self.choices],
            "usage": usage(self.job.prompt_tokens, self.choices),
        }

    async def events(self, asked: BaseRequest) -> AsyncIterator[bytes]:
        """The server-sent events of a request that streams; an error on the way is the last."""
        chat = self.job.kind == "chat.completion"
        head = {**self._head, "object": "chat.completion.chunk" if chat else self.job.kind}
        last = {"usage": None} if asked.with_usage else {}
        try:
            if chat:
                for choice in self.choices:
                    first = {"role": "assistant", "content": ""}
                    yield _event({**head, "choices": [_delta(choice, first)], **last})
            async for choice, piece in self._pieces():
                yield _event({**head, "choices": [self._chunk(choice, piece)], **last})
            if asked.with_usage:
                counts = usage(self.job.prompt_tokens, self.choices)
                yield _event({**head, "choices": [], "usage": counts})
        except SalientError as error:
            words = str(error) if isinstance(error, ResourceError) else "The model cannot go on."
            yield _event(body_of(words, INTERNAL, None, 500))
        finally:
            self.close()
        yield b"data: [DONE]\n\n"

    async def _pieces(self) -> AsyncIterator[tuple[ChoiceState, StepOutput]]:
        """The pieces of all tickets as they come; choices and clocks take them in."""
        waiting = {
            asyncio.ensure_future(ticket.pieces.get()): number
            for number, ticket in enumerate(self.tickets)
        }
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    number, piece = waiting.pop(future), future.result()
                    yield self._take(number, piece)
                    while not self.choices[number].finished:
                        try:
                            more = self.tickets[number].pieces.get_nowait()
                        except asyncio.QueueEmpty:
                            again = asyncio.ensure_future(self.tickets[number].pieces.get())
                            waiting[again] = number
                            break
                        yield self._take(number, more)
        finally:
            for future in waiting:
                future.cancel()

    def _take(
        self, number: int, piece: StepOutput | SalientError
    ) -> tuple[ChoiceState, StepOutput]:
        if isinstance(piece, SalientError):
            raise piece
        choice, clock = self.choices[number], self._clocks[number]
        choice.take(piece)
        if piece.picked is not None:
            clock.token()
        if piece.finished:
            clock.end(piece.finished)
        return choice, piece

    def _whole_choice(self, choice: ChoiceState) -> dict[str, Any]:
        told: dict[str, Any] = {"index": choice.index}
        if self.job.kind == "text_completion":
            told["text"] = choice.text
        else:
            told["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
        told["logprobs"] = self._logprobs(choice, 0)
        return {**told, "finish_reason": choice.finish_reason, **self._token_ids(choice, 0)}

    def _chunk(self, choice: ChoiceState, piece: StepOutput) -> dict[str, Any]:
        start = choice.tokens - (piece.picked is not None)
        logprobs, ids = self._logprobs(choice, start), self._token_ids(choice, start)
        if self.job.kind == "text_completion":
            told = {"index": choice.index, "text": piece.text}
            return {**told, "logprobs": logprobs, "finish_reason": choice.finish_reason, **ids}
        return _delta(choice, {"content": piece.text} if piece.text else {}, logprobs) | ids

    def _token_ids(self, choice: ChoiceState, start: int) -> dict[str, list[int]]:
        """Of the choice's tokens from `start` on, where they were asked for."""
        return {"token_ids": [p.token for p in choice.picked[start:]]} if self.job.token_ids else {}

    def _logprobs(self, choice: ChoiceState, start: int) -> dict[str, Any] | None:
        """Of the choice's tokens from `start` on."""
        if not self.job.logprobs:
            return None
        picked = choice.picked[start:]
        if self.job.kind == "text_completion":
            return completion_logprobs(choice.tokenizer, picked, choice.offsets[start:])
        return chat_logprobs(choice.tokenizer, picked)


Make = Callable[[Any, Engine], CompletionJob]


def _delta(
    choice: ChoiceState, delta: dict[str, Any], logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    finish = choice.finish_reason
    return {"index": choice.index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
