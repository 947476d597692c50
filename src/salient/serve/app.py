"""The server's routes: OpenAI's API, health, metrics."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

from salient.core.errors import SalientError
from salient.core.version import __version__
from salient.runtime.tokenization import prompt_ids

from .completions import Service, respond, unknown_model
from .middleware import GuardMiddleware
from .openai_format import INTERNAL, INVALID, error_response, response_to
from .prometheus import CONTENT_TYPE
from .protocol import ChatCompletionRequest, CompletionRequest, TokenizeRequest
from .worker import BROKEN, Worker


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
    @app.post("/v1/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        return await respond(service, body, request)

    @app.post("/v1/chat/completions")
    async def chat_completions(body: ChatCompletionRequest, request: Request) -> Response:
        return await respond(service, body, request)

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Response:
        engine = service.worker.engine
        if body.add_special_tokens is False:
            ids = engine.tokenizer(body.prompt, add_special_tokens=False, verbose=False).input_ids
        else:
            ids = prompt_ids(engine.tokenizer, body.prompt)
        return JSONResponse({"count": len(ids), "max_model_len": engine.context, "tokens": ids})


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
    @app.get("/health")
    async def health() -> Response:
        return Response(status_code=503 if service.worker.failure else 200)

    @app.get("/ready")
    async def ready() -> Response:
        return Response(status_code=200 if app.state.ready and not service.worker.failure else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/version")
    async def version() -> Response:
        return JSONResponse({"version": __version__})


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
        return error_response(str(error.detail), error.status_code, kind)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return error_response("The server failed; its log says why.", 500, INTERNAL)
