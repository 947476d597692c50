"""Completions and chats: from the body of a request to its response, streamed or not."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from fastapi import Request
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, Response, StreamingResponse

from salient.core.errors import RequestError, ResourceError, SalientError
from salient.runtime.engine import Engine
from salient.runtime.grammar import Constraint
from salient.runtime.sampling_params import SamplingParams
from salient.runtime.sequence import StepOutput
from salient.runtime.tokenization import chat_ids, check_length, prompt_ids

from .bodies import read_body
from .bounded_threads import request_threads
from .openai_format import (
    INTERNAL,
    ChoiceState,
    JsonObject,
    error_body,
    error_response,
    json_pieces,
    usage,
)
from .prometheus import Clock, Metrics
from .protocol import DEFAULT_TOKENS, ChatCompletionRequest, CompletionRequest
from .worker import OutputQueue, Ticket, Worker

CompletionBody = CompletionRequest | ChatCompletionRequest
MAX_ANSWERS = 256  # of one request
MAX_ENTRIES = 2**19  # tokens and log probabilities of one response
SMALL = 2**11  # entries of a response that is rendered at once


@dataclass(frozen=True)
class CompletionJob:
    """Prompts, and the sampling of each choice of each prompt.

    constraint: a grammar of the text; each choice takes a copy
    logprobs, token_ids: whether the response has them
    """

    prompts: list[list[int]]
    samplings: list[SamplingParams]
    constraint: Constraint | None
    chat: bool
    logprobs: bool
    token_ids: bool

    @property
    def prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))


def completion_job(body: CompletionBody, engine: Engine) -> CompletionJob:
    """The work of a request. Raises RequestError for what cannot be run."""
    tokenizer, chat = engine.tokenizer, isinstance(body, ChatCompletionRequest)
    if isinstance(body, ChatCompletionRequest):
        count, limit = 1, body.limit
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
    else:
        count, limit, logprobs = len(body.prompt), body.max_tokens or DEFAULT_TOKENS, body.logprobs
    most = min(limit or engine.context, engine.context)
    _check_answers(count * body.choices, most, logprobs)
    if isinstance(body, ChatCompletionRequest):
        conversation = [message.plain for message in body.messages]
        prompts = [chat_ids(tokenizer, conversation, engine.context)]
    else:
        prompts = [
            prompt_ids(tokenizer, prompt, engine.context) if isinstance(prompt, str) else prompt
            for prompt in body.prompt
        ]
    for ids in prompts:
        check_length(ids, most, engine.context)
        engine.check_known(ids)
    samplings = [body.sampling(most, logprobs, n) for n in range(body.choices)]
    form, constraint = body.response_format, None
    if form is not None and form.type != "text":
        constraint = engine.grammars.json(form.json_schema.schema_ if form.json_schema else None)
    token_ids = bool(body.return_token_ids)
    return CompletionJob(prompts, samplings, constraint, chat, logprobs is not None, token_ids)


def _check_answers(count: int, limit: int, logprobs: int | None) -> None:
    """Raise RequestError for more answers or a larger response than one request may ask for."""
    if count > MAX_ANSWERS:
        raise RequestError(
            f"{count} answers (prompts times n) are too many for one request; ask for up to "
            f"{MAX_ANSWERS}."
        )
    entries = count * limit * (1 + (logprobs or 0))
    if entries > MAX_ENTRIES:
        raise RequestError(
            f"Up to {entries} tokens and log probabilities are too many for one response; this "
            f"server returns up to {MAX_ENTRIES}. Lower max_tokens, n or logprobs."
        )


class Service:
    """Serves a worker's engine under the name `model`."""

    def __init__(self, worker: Worker, model: str):
        self.worker, self.model, self.metrics = worker, model, Metrics(model, worker)
        self.created = int(time.time())


class RunningJob:
    """A submitted job. Raises ResourceError if too many requests wait; end it with `close`."""

    def __init__(self, service: Service, job: CompletionJob):
        self.job, self.worker, self.outputs = job, service.worker, OutputQueue()
        self.worker.admit(len(job.prompts) * len(job.samplings))
        tokenizer = self.worker.engine.tokenizer
        self._choices: list[ChoiceState] = []
        self._clocks: dict[Ticket, tuple[ChoiceState, Clock]] = {}
        for prompt in job.prompts:
            for n, sampling in enumerate(job.samplings):
                constraint = job.constraint and job.constraint.fresh()
                ticket = self.worker.submit(prompt, sampling, constraint, self.outputs)
                index = len(self._choices)
                choice = ChoiceState(index, tokenizer, job.chat, job.logprobs, job.token_ids)
                clock = Clock(service.metrics, 0 if n else len(prompt))
                self._choices.append(choice)
                self._clocks[ticket] = choice, clock
        self._head = {
            "id": f"{'chatcmpl' if job.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if job.chat else "text_completion",
            "created": int(time.time()),
            "model": service.model,
        }

    def close(self) -> None:
        for ticket in self._clocks:
            self.worker.cancel(ticket)

    @property
    def entries(self) -> int:
        """Tokens and log probabilities of the response."""
        return sum(len(c.picked) for c in self._choices) * (
            1 + (self.job.samplings[0].logprobs or 0)
        )

    async def finish(self) -> None:
        """Wait for all answers."""
        async for _ in self._outputs():
            pass

    def response(self) -> JsonObject:
        """The response, after `finish`."""
        return {
            **self._head,
            "choices": [choice.complete() for choice in self._choices],
            "usage": usage(self.job.prompt_tokens, self._choices),
        }

    async def events(self, body: CompletionBody) -> AsyncIterator[bytes]:
        """The server-sent events of a streamed response; an error is the last of them."""
        head = {**self._head, "object": "chat.completion.chunk"} if self.job.chat else self._head
        last = {"usage": None} if body.with_usage else {}
        try:
            for choice in self._choices if self.job.chat else ():
                yield _event({**head, "choices": [choice.opening()], **last})
            async for choice, output in self._outputs():
                yield _event({**head, "choices": [choice.chunk(output)], **last})
            if body.with_usage:
                counts = usage(self.job.prompt_tokens, self._choices)
                yield _event({**head, "choices": [], "usage": counts})
        except SalientError as error:
            overloaded = isinstance(error, ResourceError)
            message = str(error) if overloaded else "The model cannot continue."
            yield _event(error_body(message, INTERNAL, None, 500))
        finally:
            self.close()
        yield b"data: [DONE]\n\n"

    async def _outputs(self) -> AsyncIterator[tuple[ChoiceState, StepOutput]]:
        """The outputs of all choices as they come, added to their choices and clocks."""
        running = len(self._choices)
        while running:
            ticket, output = await self.outputs.get()
            if isinstance(output, SalientError):
                raise output
            choice, clock = self._clocks[ticket]
            choice.add(output)
            if output.picked is not None:
                clock.token()
            if output.finished:
                clock.end(output.finished)
                running -= 1
            yield choice, output


async def respond(service: Service, request: Request, model: type[CompletionBody]) -> Response:
    """The response to a request with the body `model`.

    Raises RequestError, and ResourceError if too many requests wait.
    """
    service.worker.admit(1)  # before the work of reading it
    body, threads = await read_body(request, model, chat=model is ChatCompletionRequest)
    if body.model is not None and body.model != service.model:
        return unknown_model(body.model, service)
    form = body.response_format
    if form is not None and form.type == "json_schema":  # may take seconds to compile
        threads = request_threads.slow(chat=model is ChatCompletionRequest)
    job = await threads.run(partial(completion_job, body, service.worker.engine))
    running = RunningJob(service, job)
    if body.stream:
        # If the client leaves before the first event, the generator never starts nor closes.
        close = BackgroundTask(running.close)
        events = running.events(body)
        return StreamingResponse(events, media_type="text/event-stream", background=close)
    try:
        connected = await _until_disconnect(request, running)
    finally:
        running.close()
    if not connected or running.entries <= SMALL:
        return JSONResponse(running.response() if connected else {})
    work = threads.submit(lambda: "".join(json_pieces(running.response())))
    return Response(await asyncio.wrap_future(work), media_type="application/json")


async def _until_disconnect(request: Request, running: RunningJob) -> bool:
    """Wait for the answers; False if the client disconnects first."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    work = asyncio.ensure_future(running.finish())
    disconnect = asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({work, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()  # raises its error
        return work.done()
    finally:
        work.cancel()
        disconnect.cancel()


def unknown_model(name: str, service: Service) -> JSONResponse:
    message = f"There is no model {name[:200]!r} here; this server has {service.model!r}."
    return error_response(message, 404, "NotFoundError", "model")


def _event(data: JsonObject) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"
