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
from .options import ServeOptions, ServerEvent
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


def serve_embedded(options: ServeOptions, listening: socket, extend: ExtendApp | None) -> None:
    """Serve on `listening` until a signal. extend: adds routes to the app

    Raises SalientError if the server cannot start.
    """
    folder = model_folder(str(options.checkpoint))
    reference_folder = model_folder(str(options.reference)) if options.reference else None
    served = _load_served(options, folder, reference_folder)
    reference = _load_reference(options, reference_folder) if reference_folder else None
    settings = AppSettings(
        served.name,
        options.api_key,
        origins=strings(options.allow_origin),
        only_local=is_loopback(options.host) and options.api_key is None,
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
    event = started_event(info, options)
    run_app(app, listening, options.deadline, lambda: options.emit(event))


def started_event(info: ServerInfo, options: ServeOptions) -> ServerEvent:
    """The server's addresses."""
    lines = [
        f"Serving {info.model} at {info.url}: {info.slots} sequences at once of up to "
        f"{info.context} tokens; {', '.join(info.kernels) or '16-bit'}, {info.how}.",
        f"OpenAI's API is at {info.url}/v1, the explorer at {info.url}/ , Prometheus metrics at "
        f"{info.url}/metrics. Ctrl-C: graceful shutdown.",
    ]
    if not is_loopback(options.host) and options.api_key is None:
        lines.append(
            f"warning: {options.host} can be reached from other machines, and no key is required. "
            "Set --api-key, or SALIENT_API_KEY in the environment."
        )
    data = {"engine": "embedded", "url": info.url, "model": info.model, "slots": info.slots}
    more = {"context": info.context, "kernels": info.kernels, "runs_as": info.how}
    return ServerEvent(lines, {**data, **more, "api_key": options.api_key is not None})


def _load_served(options: ServeOptions, folder: Path, reference: Path | None) -> ServedModel:
    slots = options.concurrency
    if slots is None:
        folders = [folder, reference] if reference else [folder]
        slots = sequences(folders, options.context_length, options.device)
    loaded = load(
        str(folder),
        EngineOptions(
            device=options.device,
            dtype=options.dtype,
            context_length=options.context_length,
            slots=slots,
        ),
    )
    name = options.served_model_name or folder.resolve().name
    return ServedModel(name, folder, loaded, Worker(loaded.engine, options.max_waiting))


def _load_reference(options: ServeOptions, folder: Path) -> ServedModel:
    loaded = load(
        str(folder),
        EngineOptions(
            device=options.device, context_length=options.context_length, slots=REFERENCE_SLOTS
        ),
    )
    name = str(options.reference or folder.name)
    return ServedModel(name, folder, loaded, Worker(loaded.engine, options.max_waiting))
