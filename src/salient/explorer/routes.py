"""The explorer's routes: the page, its files, and the JSON that it shows.

Parameters are bounded, and no request names a file of this machine.
"""

from collections.abc import Callable
from importlib.resources import files
from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import JSONResponse, Response

from salient.core.errors import RequestError
from salient.core.scheme import Scheme
from salient.explorer.panels.group import GroupQuery, group_data
from salient.explorer.panels.linear_view import curve_data, inputs_data, salience_data
from salient.serve.bodies import read_body
from salient.serve.completions import CompletionBody, Service, respond
from salient.serve.openai_format import error_response
from salient.serve.protocol import ChatCompletionRequest, CompletionRequest

from .divergence import ForcedAnswer, divergence
from .state import ExplorerState

API = "/explorer/api"
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
NO_REFERENCE = (
    "No 16-bit reference runs next to this checkpoint. Start the server with `--reference MODEL`."
)

Block = Annotated[int, Query(ge=0, lt=10_000)]
Layer = Annotated[str, Query(min_length=1, max_length=300)]
Row = Annotated[int, Query(ge=0, lt=2**31)]
Bits = Annotated[int, Query(ge=2, le=8)]
GroupSize = Annotated[int, Query(ge=1, le=4096)]
Clip = Annotated[float, Query(ge=0.1, le=1.0, allow_inf_nan=False)]
Exponent = Annotated[float, Query(ge=-2.0, le=2.0, allow_inf_nan=False)]


def add_explorer(app: FastAPI, state: ExplorerState) -> None:
    _add_page(app)
    _add_overview(app, state)
    _add_panels(app, state)
    _add_chat(app, state)


def _add_page(app: FastAPI) -> None:
    folder = files("salient.explorer") / "static"
    contents = {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.name.rpartition(".")[2] in TYPES
    }

    def response(name: str) -> Response:
        kind = TYPES[name.rpartition(".")[2]]
        return Response(contents[name], headers={**HEADERS, "Content-Type": kind})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return response("index.html")

    @app.get("/explorer/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name in contents and name != "index.html":
            return response(name)
        return error_response("The page has no such file.", 404, "NotFoundError")


def _add_overview(app: FastAPI, state: ExplorerState) -> None:
    @app.get(f"{API}/scene")
    async def overview() -> Response:
        return await _computed(state, state.overview)

    @app.get(f"{API}/progress")
    async def progress() -> Response:
        return _json(state.progress)

    @app.get(f"{API}/running")
    async def running() -> Response:
        return await _computed(state, state.running)


def _add_panels(app: FastAPI, state: ExplorerState) -> None:
    @app.get(f"{API}/block")
    async def inputs(block: Block) -> Response:
        return await _computed(state, lambda: inputs_data(state.viewer, block))

    @app.get(f"{API}/salience")
    async def salience(block: Block, layer: Layer) -> Response:
        return await _computed(state, lambda: salience_data(state.viewer.view(block, layer)))

    @app.get(f"{API}/curve")
    async def curve(block: Block, layer: Layer) -> Response:
        def compute() -> dict[str, object]:
            view = state.viewer.view(block, layer)
            scheme = state.scheme_for(view.linear.shape[1])
            return curve_data(state.viewer, view, scheme, state.dtype)

        return await _computed(state, compute)

    @app.get(f"{API}/group")
    async def group(
        block: Block,
        layer: Layer,
        row: Row = 0,
        group: Row = 0,
        bits: Bits = 4,
        group_size: GroupSize = 64,
        clip: Clip = 1.0,
        a: Exponent = 0.0,
        b: Exponent = 0.0,
    ) -> Response:
        def compute() -> dict[str, object]:
            scheme = Scheme(group_size, state.scheme.symmetric, bits)
            query = GroupQuery(row, group, scheme, clip, a, b, state.dtype)
            return group_data(state.viewer, state.viewer.view(block, layer), query)

        return await _computed(state, compute)


def _add_chat(app: FastAPI, state: ExplorerState) -> None:
    reference = state.reference
    service = Service(reference.worker, reference.name) if reference else None

    async def reply(request: Request, model: type[CompletionBody]) -> Response:
        if service is None:
            raise RequestError(NO_REFERENCE)
        return await respond(service, request, model)

    @app.post(f"{API}/reference/chat")
    async def chat(request: Request) -> Response:
        return await reply(request, ChatCompletionRequest)

    @app.post(f"{API}/reference/completions")
    async def completions(request: Request) -> Response:
        return await reply(request, CompletionRequest)

    @app.post(f"{API}/divergence")
    async def compare(request: Request) -> Response:
        if reference is None:
            raise RequestError(NO_REFERENCE)
        body, threads = await read_body(request, ForcedAnswer, chat=True)
        return _json(await divergence(body, threads, state.served.worker, reference.worker))


async def _computed(state: ExplorerState, compute: Callable[[], dict[str, object]]) -> Response:
    return _json(await state.background.run(compute))


def _json(data: dict[str, object]) -> JSONResponse:
    return JSONResponse(data, headers={"Cache-Control": "no-store"})
