"""The verb that serves."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from salient.core.progress import Progress, silent

if TYPE_CHECKING:
    from fastapi import FastAPI

    from salient.serve.embedded import ServedModel


def unheard_event(lines: list[str], data: dict[str, Any]) -> None:
    """A listener to what a server tells that does nothing."""


def serve(
    checkpoint: str,
    vllm_args: Sequence[str] = (),
    *,
    engine: str = "auto",
    host: str = "127.0.0.1",
    port: int = 8000,
    served_model_name: str | None = None,
    api_key: str | None = None,
    max_context: int | None = None,
    max_concurrency: int | None = None,
    max_waiting: int = 256,
    reference: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    tp: int = 1,
    vllm_python: str | None = None,
    print_command: bool = False,
    allow_origin: Sequence[str] = (),
    deadline: int = 30,
    progress: Progress = silent,
    heard: Callable[[list[str], dict[str, Any]], None] = unheard_event,
) -> int:
    """Serve `checkpoint` (folder, Hub id or 'smollm2-135m') to OpenAI's clients; ends by a signal.

    `engine` is auto (vLLM where it is found, else embedded), embedded or vllm; `vllm_args` go to
    vLLM as they are. The demo model is quantized first, once. `heard` gets what there is to tell,
    as lines and as data. With `print_command` only vLLM's command is told.

    Returns the exit code: 0, or that of a vLLM that ended by itself.

    Raises SalientError for whatever keeps the server from starting.
    """
    from salient.serve.options import ServeOptions
    from salient.serve.server import run_server

    request = ServeOptions(
        checkpoint,
        engine,
        host,
        port,
        served_model_name,
        api_key,
        max_context,
        max_concurrency,
        max_waiting,
        reference,
        device,
        dtype,
        tp,
        vllm_python,
        print_command,
        tuple(allow_origin),
        deadline,
        tuple(vllm_args),
    )
    return run_server(request, progress, heard, _add_explorer)


def _add_explorer(app: "FastAPI", served: "ServedModel", reference: "ServedModel | None") -> None:
    from salient.explorer.routes import mount_explorer

    mount_explorer(app, served, reference)
