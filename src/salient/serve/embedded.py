"""The server of the embedded engine: loads the models, builds the app, runs it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from socket import socket

from fastapi import FastAPI

from salient.core.options import strings
from salient.models.model_folder import model_folder
from salient.runtime.load_engine import LoadedEngine, load
from salient.runtime.options import EngineOptions

from .app import AppSettings, create_app
from .capacity import sequences
from .http_server import is_loopback, run_app, url_of
from .options import ServeOptions
from .worker import Worker

REFERENCE_SLOTS = 2  # only the explorer uses it


@dataclass(frozen=True)
class ServedModel:
    """A model that runs on an engine of its own. name: in requests"""

    name: str
    folder: Path
    loaded: LoadedEngine
    worker: Worker


ExtendApp = Callable[[FastAPI, ServedModel, ServedModel | None], None]


@dataclass(frozen=True)
class ServerInfo:
    """A started server."""

    url: str
    model: str
    context: int
    slots: int
    kernels: list[str]
    how: str


def serve_embedded(
    request: ServeOptions,
    listening: socket,
    started: Callable[[ServerInfo], None],
    extend: ExtendApp | None = None,
) -> None:
    """Serve on `listening` until a signal.

    started: called as soon as the server accepts requests   extend: adds routes to the app

    Raises SalientError if the server cannot start.
    """
    folder = model_folder(str(request.checkpoint))
    reference_folder = model_folder(str(request.reference)) if request.reference else None
    served = _load_served(request, folder, reference_folder)
    reference = _load_reference(request, reference_folder) if reference_folder else None
    settings = AppSettings(
        served.name,
        request.api_key,
        origins=strings(request.allow_origin),
        only_local=is_loopback(request.host) and request.api_key is None,
    )
    app = create_app(served.worker, settings, [reference.worker] if reference else [])
    if extend:
        extend(app, served, reference)
    engine = served.loaded.engine
    info = ServerInfo(
        url_of(listening),
        served.name,
        engine.context,
        engine.runner.slots,
        [name for name, _ in served.loaded.model.kernels],
        engine.runner.how,
    )
    run_app(app, listening, request.deadline, lambda: started(info))


def _load_served(request: ServeOptions, folder: Path, reference: Path | None) -> ServedModel:
    slots = request.concurrency
    if slots is None:
        folders = [folder, reference] if reference else [folder]
        slots = sequences(folders, request.context_length, request.device)
    options = EngineOptions(
        device=request.device,
        dtype=request.dtype,
        context_length=request.context_length,
        slots=slots,
    )
    loaded = load(str(folder), options)
    name = request.served_model_name or folder.resolve().name
    return ServedModel(name, folder, loaded, Worker(loaded.engine, request.max_waiting))


def _load_reference(request: ServeOptions, folder: Path) -> ServedModel:
    options = EngineOptions(
        device=request.device, context_length=request.context_length, slots=REFERENCE_SLOTS
    )
    loaded = load(str(folder), options)
    name = str(request.reference or folder.name)
    return ServedModel(name, folder, loaded, Worker(loaded.engine, request.max_waiting))
