"""The routes of the server: OpenAI's API, health, metrics."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from salient import __version__
from salient.core.errors import SalientError
from salient.runtime.tokenization import prompt_ids

from .completions import Service, chat_job, completion_job
from .error_responses import INTERNAL, INVALID, refused, response_to
from .middleware import GuardMiddleware
from .prometheus import CONTENT_TYPE, Metrics
from .protocol import ChatCompletionRequest, CompletionRequest, TokenizeRequest
from .responses import no_model, respond
from .worker import BROKEN, Worker


@dataclass(frozen=True)
class AppSettings:
    """How to serve.

    model: the name that clients use   api_key: asked for as a bearer token, None for none
    largest_body: bytes
    origins: of pages that browsers may let ask (CORS); () for none but the server's own
    only_local: answer only to names of this machine itself
    """

    model: str
    api_key: str | None = None
    largest_body: int = 8 * 2**20
    origins: tuple[str, ...] = ()
    only_local: bool = False


def create_app(worker: Worker, settings: AppSettings, beside: Sequence[Worker] = ()) -> FastAPI:
    """The server of `worker`'s engine, which nothing else may use while it runs.

    beside: workers of other models that start and stop with the server
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for each in (worker, *beside):
            each.start()
        app.state.ready = True
        try:
            yield
        finally:
            app.state.ready = False
            for each in (worker, *beside):
                each.stop()

    # FastAPI's own pages load their scripts from elsewhere; /openapi.json is there.
    app = FastAPI(
        title="Salient", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.ready = False
    service = Service(worker, settings.model, Metrics(settings.model, worker))
    app.add_middleware(
        GuardMiddleware,
        api_key=settings.api_key,
        largest_body=settings.largest_body,
        only_local=settings.only_local,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    _errors(app)
    _answers(app, service)
    _models(app, service)
    _health(app, service)
    return app


def _answers(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        return await respond(service, completion_job, asked, request)

    @app.post("/v1/chat/completions")
    async def chat_completions(asked: ChatCompletionRequest, request: Request) -> Response:
        return await respond(service, chat_job, asked, request)

    @app.post("/tokenize")
    async def tokenize(asked: TokenizeRequest) -> Response:
        engine = service.worker.engine
        if asked.add_special_tokens is False:
            ids = engine.tokenizer(asked.prompt, add_special_tokens=False, verbose=False).input_ids
        else:
            ids = prompt_ids(engine.tokenizer, asked.prompt)
        return JSONResponse({"count": len(ids), "max_model_len": engine.context, "tokens": ids})


def _models(app: FastAPI, service: Service) -> None:
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
        return JSONResponse(card) if name == service.model else no_model(name, service)


def _health(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=503 if service.worker.failure else 200)

    @app.get("/ready")
    async def ready() -> Response:
        fine = app.state.ready and not service.worker.failure
        return Response(status_code=200 if fine else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/version")
    async def version() -> Response:
        return JSONResponse({"version": __version__})


def _errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:] if not _is_branch(part))
        said = str(first["msg"]).removeprefix("Value error, ")
        return refused(f"{where}: {said}"[:500] if where else said[:500], param=where[:100] or None)

    @app.exception_handler(SalientError)
    async def ours(_: Request, error: SalientError) -> Response:
        return response_to(error, alive=str(error) != BROKEN)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        kind = INVALID if error.status_code < 500 else INTERNAL
        return refused(str(error.detail), error.status_code, kind)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        return refused("The server failed; its log says why.", 500, INTERNAL)


def _is_branch(part: Any) -> bool:
    """Whether a part of a place is pydantic's name for a branch of a union, and no field."""
    return isinstance(part, str) and ("[" in part or part in ("str", "constrained-str"))
