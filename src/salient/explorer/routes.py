"""The explorer's routes: the page, its files, and the JSON that it shows."""

from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from salient.core.errors import RequestError
from salient.core.scheme import Scheme
from salient.explorer.panels.curve import curve_data
from salient.explorer.panels.group import GroupQuery, group_data
from salient.explorer.panels.linear_view import inputs_data
from salient.explorer.panels.salience import salience_data
from salient.serve.completions import Service, chat_job, completion_job
from salient.serve.error_responses import refused
from salient.serve.prometheus import Metrics
from salient.serve.protocol import ChatCompletionRequest, CompletionRequest
from salient.serve.responses import respond

from .divergence import divergence
from .query_params import Bits, Block, Clip, Exponent, ForcedAnswer, GroupSize, Layer, Row
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
    "No 16-bit reference runs beside this checkpoint. Start the server with `--reference MODEL`."
)


def add_explorer(app: FastAPI, scene: ExplorerState) -> None:
    """Give `app` the page at / and everything that it asks for."""
    _page(app)
    _overview(app, scene)
    _panels(app, scene)
    _chat(app, scene)


def _page(app: FastAPI) -> None:
    folder = files("salient.explorer") / "static"
    known = {
        entry.name: entry.read_bytes()
        for entry in folder.iterdir()
        if entry.name.rpartition(".")[2] in TYPES
    }

    def given(name: str) -> Response:
        kind = TYPES[name.rpartition(".")[2]]
        return Response(known[name], headers={**HEADERS, "Content-Type": kind})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return given("index.html")

    @app.get("/explorer/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name in known and name != "index.html":
            return given(name)
        return refused("The page has no such file.", 404, "NotFoundError")


def _overview(app: FastAPI, scene: ExplorerState) -> None:
    @app.get(f"{API}/scene")
    async def overview() -> Response:
        return _data(await scene.desk.do(scene.overview))

    @app.get(f"{API}/progress")
    async def progress() -> Response:
        return _data(scene.progress)

    @app.get(f"{API}/running")
    async def running() -> Response:
        return _data(await scene.desk.do(scene.running))


def _panels(app: FastAPI, scene: ExplorerState) -> None:
    @app.get(f"{API}/block")
    async def inputs(block: Block) -> Response:
        return _data(await scene.desk.do(lambda: inputs_data(scene.viewer, block)))

    @app.get(f"{API}/salience")
    async def salience(block: Block, layer: Layer) -> Response:
        return _data(await scene.desk.do(lambda: salience_data(scene.viewer.view(block, layer))))

    @app.get(f"{API}/curve")
    async def curve(block: Block, layer: Layer) -> Response:
        def made() -> dict[str, Any]:
            view = scene.viewer.view(block, layer)
            scheme = scene.scheme_for(view.linear.shape[1])
            return curve_data(scene.viewer, view, scheme, scene.dtype)

        return _data(await scene.desk.do(made))

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
        def made() -> dict[str, Any]:
            scheme = Scheme(group_size, scene.scheme.symmetric, bits)
            wanted = GroupQuery(row, group, scheme, clip, a, b, scene.dtype)
            return group_data(scene.viewer, scene.viewer.view(block, layer), wanted)

        return _data(await scene.desk.do(made))


def _chat(app: FastAPI, scene: ExplorerState) -> None:
    reference = scene.reference
    service = None
    if reference is not None:
        metrics = Metrics(reference.name, reference.worker)
        service = Service(reference.worker, reference.name, metrics)

    @app.post(f"{API}/reference/chat")
    async def chat(asked: ChatCompletionRequest, request: Request) -> Response:
        if service is None:
            raise RequestError(NO_REFERENCE)
        return await respond(service, chat_job, asked, request)

    @app.post(f"{API}/reference/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Response:
        if service is None:
            raise RequestError(NO_REFERENCE)
        return await respond(service, completion_job, asked, request)

    @app.post(f"{API}/divergence")
    async def parting(asked: ForcedAnswer) -> Response:
        if reference is None:
            raise RequestError(NO_REFERENCE)
        return _data(await divergence(asked, scene.worker, reference.worker))


def _data(made: dict[str, Any]) -> JSONResponse:
    return JSONResponse(made, headers={"Cache-Control": "no-store"})
