"""The verb `serve`: the engine chosen, the demo's checkpoint made where it is asked for, the rest
handed on. Imports torch only where it is needed.
"""

from collections.abc import Callable
from dataclasses import replace
from socket import socket
from typing import TYPE_CHECKING, Any

from salient.core.progress import Progress

from .engine_choice import check_extra, chosen_engine
from .http_server import bind
from .messages import command_told, embedded_told, said
from .options import ServeOptions

if TYPE_CHECKING:
    from .embedded import ExtendApp

Heard = Callable[[list[str], dict[str, Any]], None]


def run_server(
    request: ServeOptions,
    progress: Progress,
    heard: Heard,
    extend: "ExtendApp | None" = None,
) -> int:
    """Serve until a signal; the exit code: 0, or that of a vLLM that ended by itself.

    Raises SalientError for whatever keeps the server from starting.
    """
    if chosen_engine(request) == "vllm":
        return _vllm(_prepared(request, progress, heard), heard)
    check_extra()
    with bind(request.host, request.port) as listening:
        return _embedded(_prepared(request, progress, heard), listening, heard, extend)


def _prepared(request: ServeOptions, progress: Progress, heard: Heard) -> ServeOptions:
    """The request for a checkpoint that is there; long work ends with it."""
    made = replace(request, checkpoint=_made(request.checkpoint, progress, heard))
    progress.close()  # a server runs until a signal
    return made


def _embedded(
    request: ServeOptions, listening: socket, heard: Heard, extend: "ExtendApp | None"
) -> int:
    from .embedded import ServerInfo, serve_embedded

    def started(info: ServerInfo) -> None:
        heard(*embedded_told(info, request))

    serve_embedded(request, listening, started, extend)
    return 0


def _vllm(request: ServeOptions, heard: Heard) -> int:
    from salient.models.model_folder import model_folder
    from salient.serve.vllm.launch import command_of, run_vllm

    wanted = replace(request, checkpoint=str(model_folder(request.checkpoint)))
    if request.print_command:
        heard(*command_told(*command_of(wanted)))
        return 0
    return run_vllm(wanted, said(heard))


def _made(checkpoint: str, progress: Progress, heard: Heard) -> str:
    """`checkpoint`, or in the demo model's place its 4-bit checkpoint, made on the first use."""
    from salient.models.demo import DEMO_NAME, demo_checkpoint

    if checkpoint != DEMO_NAME:
        return checkpoint
    folder = demo_checkpoint()
    if not (folder / "salient.json").exists():
        from salient.awq.job import QuantizeOptions
        from salient.awq.quantize import quantize_model

        heard([f"Quantizing {DEMO_NAME} into {folder}, once; it takes a minute or two."], {})
        # groups of 64: its width of 576 takes no larger
        made = QuantizeOptions(DEMO_NAME, str(folder), "w4-g64", "awq", "builtin", 16, 512)
        quantize_model(made, fresh=False, dry_run=False, progress=progress)
    return str(folder)
