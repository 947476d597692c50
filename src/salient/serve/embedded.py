"""The server of the embedded engine: loads the models, builds the app, runs it.

It runs as many sequences at once as memory holds, up to a few dozen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from socket import socket

from fastapi import FastAPI

from salient.core.devices import find_device, free_memory
from salient.core.errors import CheckpointError, ModelError, ResourceError
from salient.core.evidence import find_changed
from salient.core.options import strings
from salient.models.model_folder import model_folder
from salient.runtime.load_engine import LONGEST_DEFAULT, LoadedEngine, load
from salient.runtime.options import EngineOptions
from salient.shapes.resolve import shape_of_folder

from .app import AppSettings, create_app
from .http_server import is_loopback, run_app, url_of
from .options import ServeOptions, ServerEvent
from .worker import Worker

REFERENCE_SLOTS = 2  # only the explorer uses it
MAX_SEQUENCES = 32  # a step of more costs more than it gains on the machines of this engine
UNKNOWN_SHAPE = 8  # sequences if the size of the model's cache is unknown
SHARE = 0.6  # of the free memory before the weights are loaded
KV_BYTES = 2  # of an element of the KV cache (runtime/load_engine.py)


@dataclass(frozen=True)
class ServedModel:
    """A model that runs on an engine of its own. name: in requests"""

    name: str
    folder: Path
    loaded: LoadedEngine
    worker: Worker


ExtendApp = Callable[[FastAPI, ServedModel, ServedModel | None], None]


def serve_embedded(options: ServeOptions, listening: socket, extend: ExtendApp | None) -> None:
    """Serve on `listening` until a signal. extend: adds routes to the app

    Raises SalientError if the server cannot start.
    """
    folder = model_folder(str(options.checkpoint))
    if (changed := find_changed(folder)).measured:
        raise CheckpointError(f"{folder}: {changed.note}")
    reference_folder = model_folder(str(options.reference)) if options.reference else None
    folders = [folder, reference_folder] if reference_folder else [folder]
    slots = options.concurrency
    if slots is None:
        slots = sequences(folders, options.context_length, options.device)
    name = options.served_model_name or folder.resolve().name
    served, reference = _load(options, name, folder, slots, options.dtype), None
    if reference_folder:
        reference = _load(options, str(options.reference), reference_folder, REFERENCE_SLOTS)
    settings = AppSettings(
        served.name,
        options.api_key,
        origins=strings(options.allow_origin),
        only_local=is_loopback(options.host) and options.api_key is None,
    )
    app = create_app(served.worker, settings, [reference.worker] if reference else [])
    if extend:
        extend(app, served, reference)
    event = started_event(options, url_of(listening), served)
    run_app(app, listening, options, lambda: options.emit(event))


def _load(
    options: ServeOptions, name: str, folder: Path, slots: int, dtype: str = "auto"
) -> ServedModel:
    context, device = options.context_length, options.device
    engine_options = EngineOptions(device=device, dtype=dtype, context_length=context, slots=slots)
    loaded = load(str(folder), engine_options)
    return ServedModel(name, folder, loaded, Worker(loaded.engine, options.max_waiting))


def started_event(options: ServeOptions, url: str, served: ServedModel) -> ServerEvent:
    engine, kernels = served.loaded.engine, [name for name, _ in served.loaded.model.kernels]
    slots, context, how = engine.runner.slots, engine.context, engine.runner.how
    lines = [
        f"Serving {served.name} at {url}: {slots} sequences at once of up to "
        f"{context} tokens; {', '.join(kernels) or '16-bit'}, {how}.",
        f"OpenAI's API is at {url}/v1, the explorer at {url}/ , Prometheus metrics at "
        f"{url}/metrics. Ctrl-C: graceful shutdown.",
    ]
    if not is_loopback(options.host) and options.api_key is None:
        lines.append(
            f"warning: {options.host} can be reached from other machines, and no key is required. "
            "Set --api-key, or SALIENT_API_KEY in the environment."
        )
    data = {"engine": "embedded", "url": url, "model": served.name, "slots": slots}
    more = {"context": context, "kernels": kernels, "runs_as": how}
    return ServerEvent(lines, {**data, **more, "api_key": options.api_key is not None})


def sequences(folders: Sequence[Path], context: int | None, device: str) -> int:
    """How many sequences of `context` tokens (default: the engine's) fit in memory.

    folders: the models to load, the served one first. Raises ResourceError if no sequence fits.
    """
    try:
        shape = shape_of_folder(folders[0])
    except ModelError:  # a family that plan does not know may still run
        return UNKNOWN_SHAPE
    length = context or min(shape.context or LONGEST_DEFAULT, LONGEST_DEFAULT)
    sequence = max(1, shape.values_per_token * length * KV_BYTES)
    weights = sum(p.stat().st_size for folder in folders for p in folder.glob("*.safetensors"))
    free = free_memory(find_device(device))
    room = free * SHARE - weights
    if room < sequence:
        raise ResourceError(
            f"The weights take {weights / 2**30:.1f} GiB, and one sequence of {length} tokens "
            f"{sequence / 2**30:.1f} GiB; {free / 2**30:.1f} GiB are free, of which the server "
            f"takes {SHARE:.0%}. Use a smaller --context-length, or free some memory."
        )
    return min(MAX_SEQUENCES, int(room // sequence))
