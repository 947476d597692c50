"""The embedded engine as a server: checkpoint, reference and explorer opened, bound, run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import socket

from fastapi import FastAPI

from salient.explorer.routes import add_explorer
from salient.explorer.state import ExplorerState, ReferenceModel
from salient.models.model_folder import model_folder
from salient.runtime.load_engine import EngineOptions, LoadedEngine, load

from .address import address
from .app import AppSettings, create_app
from .capacity import sequences
from .http_server import run_app
from .messages import is_loopback
from .options import ServeOptions
from .worker import Worker

REFERENCE_SLOTS = 2  # only the explorer asks it


@dataclass(frozen=True)
class ServerInfo:
    """What a started server is, for whoever started it."""

    url: str
    model: str
    context: int
    slots: int
    kernels: list[str]
    how: str


def serve_embedded(
    request: ServeOptions, listening: socket, started: Callable[[ServerInfo], None]
) -> None:
    """Serve on `listening` until a signal; `started` is told as soon as requests are taken.

    Raises SalientError for whatever keeps the server from starting.
    """
    folder = model_folder(request.checkpoint)
    beside = model_folder(request.reference) if request.reference else None
    opened = _opened(request, folder, beside)
    reference = _reference(request, beside) if beside else None
    app = _app(request, folder, opened, reference)
    facts = ServerInfo(
        address(listening),
        _name(request, folder),
        opened.engine.context,
        opened.engine.runner.slots,
        [name for name, _ in opened.model.kernels],
        opened.engine.runner.how,
    )
    run_app(app, listening, request.deadline, lambda: started(facts))


def _app(
    request: ServeOptions, folder: Path, opened: LoadedEngine, reference: ReferenceModel | None
) -> FastAPI:
    name = _name(request, folder)
    worker = Worker(opened.engine, request.max_waiting)
    settings = AppSettings(
        name,
        request.api_key,
        origins=request.origins,
        only_local=is_loopback(request.host) and request.api_key is None,
    )
    app = create_app(worker, settings, [reference.worker] if reference else [])
    add_explorer(app, ExplorerState(folder, opened, name, worker, reference))
    return app


def _opened(request: ServeOptions, folder: Path, beside: Path | None) -> LoadedEngine:
    slots = request.max_concurrency
    if slots is None:
        folders = [folder, beside] if beside else [folder]
        slots = sequences(folders, request.max_context, request.device)
    options = EngineOptions(request.device, request.dtype, context=request.max_context, slots=slots)
    return load(str(folder), options)


def _reference(request: ServeOptions, folder: Path) -> ReferenceModel:
    """The 16-bit model on an engine of its own."""
    options = EngineOptions(request.device, context=request.max_context, slots=REFERENCE_SLOTS)
    opened = load(str(folder), options)
    worker = Worker(opened.engine, request.max_waiting)
    return ReferenceModel(request.reference or folder.name, folder, opened, worker)


def _name(request: ServeOptions, folder: Path) -> str:
    return request.served_name or folder.resolve().name
