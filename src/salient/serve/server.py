"""The verb `serve`: chooses the engine, quantizes the demo model on its first use, and serves.

Imports torch only where it is needed.
"""

from dataclasses import replace
from socket import socket
from typing import TYPE_CHECKING

from salient.core.progress import Progress

from .engine_choice import check_extra, chosen_engine
from .http_server import bind
from .messages import command_event, emit, line_emitter, started_event
from .options import ServeOptions, ServerEvent

if TYPE_CHECKING:
    from .embedded import ExtendApp, ServerInfo


def run_server(options: ServeOptions, extend: "ExtendApp | None" = None) -> int:
    """Serve until a signal; the exit code: 0, or that of a vLLM that ended by itself.

    extend: adds routes to the app of the embedded engine

    Raises SalientError if the server cannot start.
    """
    if chosen_engine(options) == "vllm":
        return _serve_vllm(_with_checkpoint(options))
    check_extra()
    with bind(options.host, options.port) as listening:
        return _serve_embedded(_with_checkpoint(options), listening, extend)


def _with_checkpoint(options: ServeOptions) -> ServeOptions:
    """The options with the demo model's checkpoint in its place, quantized on the first use."""
    from salient.models.demo import demo_checkpoint
    from salient.shapes.resolve import DEMO_NAME

    if options.checkpoint == DEMO_NAME:
        folder = demo_checkpoint()
        if not (folder / "salient.json").exists():
            line = f"Quantizing {DEMO_NAME} into {folder}, once; it takes a minute or two."
            emit(options, ServerEvent([line], {}))
            _quantize_demo(DEMO_NAME, str(folder), options.progress)
        options = replace(options, checkpoint=str(folder))
    options.progress.close()  # a server runs until a signal
    return options


def _quantize_demo(name: str, folder: str, progress: Progress) -> None:
    from salient.awq.options import QuantizeOptions
    from salient.awq.quantize import quantize_model

    # groups of 64: its width of 576 takes no larger
    quantize_model(QuantizeOptions(name, folder, scheme="w4-g64", samples=16, progress=progress))


def _serve_embedded(options: ServeOptions, listening: socket, extend: "ExtendApp | None") -> int:
    from .embedded import serve_embedded

    def started(info: "ServerInfo") -> None:
        emit(options, started_event(info, options))

    serve_embedded(options, listening, started, extend)
    return 0


def _serve_vllm(options: ServeOptions) -> int:
    from salient.models.model_folder import model_folder
    from salient.serve.vllm.launch import command_of, run_vllm

    local = replace(options, checkpoint=str(model_folder(str(options.checkpoint))))
    if options.print_command:
        emit(options, command_event(*command_of(local)))
        return 0
    return run_vllm(local, line_emitter(options))
