"""The server's routes: OpenAI's API, health, metrics."""

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from salient.core.errors import SalientError
from salient.core.version import __version__
from salient.models.tokens import encode
from salient.runtime.engine import Engine
from salient.runtime.tokenization import prompt_ids

from .bodies import body_of, describe_bodies, read_body
from .bounded_threads import request_threads
from .completions import Service, respond, unknown_model
from .middleware import GuardMiddleware
from .openai_format import INTERNAL, INVALID, error_response, json_pieces, response_to
from .prometheus import CONTENT_TYPE
from .protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from .worker import BROKEN, Worker

READY_SECONDS, ALIVE_SECONDS = 10.0, 120.0  # of one step, or of waiting for a thread


@dataclass(frozen=True)
class AppSettings:
    """Settings of the HTTP server.

    model: its name in requests   api_key: the bearer token that is required, if any
    max_body: bytes   origins: pages of other origins that may send requests (CORS)
    only_local: serve only names of this machine
    """

    model: str
    api_key: str | None = None
    max_body: int = 8 * 2**20
    origins: tuple[str, ...] = ()
    only_local: bool = False


def create_app(worker: Worker, settings: AppSettings, others: Sequence[Worker] = ()) -> FastAPI:
    """The server of `worker`'s engine. others: workers that start and stop with the server"""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for each in (worker, *others):
            each.start()
        app.state.ready = True
        try:
            yield
        finally:
            app.state.ready = False
            for each in (worker, *others):
                each.stop()

    # FastAPI's documentation pages load scripts from elsewhere; /openapi.json stays.
    app = FastAPI(
        title="Salient", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.ready = False
    service = Service(worker, settings.model)
    app.add_middleware(
        GuardMiddleware,
        api_key=settings.api_key,
        max_body=settings.max_body,
        only_local=settings.only_local,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    _add_errors(app)
    _add_completions(app, service)
    _add_models(app, service)
    _add_health(app, service)
    return app


def _add_completions(app: FastAPI, service: Service) -> None:
    models = [CompletionRequest, ChatCompletionRequest, TokenizeRequest, DetokenizeRequest]
    describe_bodies(app, models)

    @app.post("/v1/completions", openapi_extra=body_of(CompletionRequest))
    async def completions(request: Request) -> Response:
        return await respond(service, request, CompletionRequest)

    @app.post("/v1/chat/completions", openapi_extra=body_of(ChatCompletionRequest))
    async def chat_completions(request: Request) -> Response:
        return await respond(service, request, ChatCompletionRequest)

    @app.post("/tokenize", openapi_extra=body_of(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        body, threads = await read_body(request, TokenizeRequest)
        return _json(await threads.run(lambda: _tokenized(service.worker.engine, body)))

    @app.post("/detokenize", openapi_extra=body_of(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        body, threads = await read_body(request, DetokenizeRequest)
        return _json(await threads.run(lambda: _detokenized(service.worker.engine, body)))


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")


def _tokenized(engine: Engine, body: TokenizeRequest) -> str:
    if body.add_special_tokens is False:
        ids = encode(engine.tokenizer, body.prompt, special=False)
    else:
        ids = prompt_ids(engine.tokenizer, body.prompt)
    content = {"count": len(ids), "max_model_len": engine.context, "tokens": ids}
    return "".join(json_pieces(content))


def _detokenized(engine: Engine, body: DetokenizeRequest) -> str:
    engine.check_known(body.tokens)
    return json.dumps({"prompt": engine.tokenizer.decode(body.tokens)}, ensure_ascii=False)


def _add_models(app: FastAPI, service: Service) -> None:
    card = {
        "id": service.model,
        "object": "model",
        "created": service.created,
        "owned_by": "salient",
        "max_model_len": service.worker.engine.context,
    }

    @app.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [card]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        return JSONResponse(card) if name == service.model else unknown_model(name, service)


def _add_health(app: FastAPI, service: Service) -> None:
    def blocked(seconds: float) -> str:
        """What has not answered for `seconds`; "" if all do."""
        if service.worker.failure or service.worker.hangs(seconds):
            return service.worker.failure or "The engine does not answer."
        if request_threads.waiting_seconds > seconds:
            return "The threads that read requests do not answer."
        return ""

    @app.get("/health")
    async def health() -> Response:
        return _status(blocked(ALIVE_SECONDS))

    @app.get("/ready")
    async def ready() -> Response:
        return _status(blocked(READY_SECONDS) if app.state.ready else "The server stops.")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/version")
    async def version() -> Response:
        return JSONResponse({"version": __version__})


def _status(problem: str) -> Response:
    return error_response(problem, 503, INTERNAL) if problem else Response()


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        parts = [str(part) for part in first["loc"][1:]]
        # without pydantic's names for branches of a union
        branches = ("str", "constrained-str")
        place = ".".join(part for part in parts if "[" not in part and part not in branches)
        message = str(first["msg"]).removeprefix("Value error, ")
        message = f"{place}: {message}" if place else message
        return error_response(message[:500], param=place[:100] or None)

    @app.exception_handler(SalientError)
    async def known(_: Request, error: SalientError) -> Response:
        return response_to(error, alive=str(error) != BROKEN)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        kind = INVALID if error.status_code < 500 else INTERNAL
        response = error_response(str(error.detail), error.status_code, kind)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return error_response("The server failed; its log says why.", 500, INTERNAL)
