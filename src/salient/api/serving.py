"""The verb that serves."""

from collections.abc import Callable, Sequence
from typing import Any

from salient.core.progress import Progress, silent


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
    from salient.serve.engines import check_extra, chosen_engine
    from salient.serve.telling import command_told, embedded_told, said

    chosen = chosen_engine(engine, vllm_python, reference, vllm_args, print_command=print_command)
    if chosen == "embedded":
        check_extra()
    folder = _made(checkpoint, progress, heard)
    progress(0, 0, "", "")  # a server runs until it is told to end
    if chosen == "vllm":
        from salient.models.source import model_folder
        from salient.serve.vllm.engine import VllmRequest, command_of, run_vllm

        request = VllmRequest(
            str(model_folder(folder)),
            host,
            port,
            api_key,
            max_context,
            max_concurrency,
            tp,
            dtype,
            served_model_name,
            vllm_python,
            tuple(vllm_args),
        )
        if print_command:
            heard(*command_told(*command_of(request)))
            return 0
        return run_vllm(request, said(heard))

    from salient.serve.embedded import EmbeddedRequest, serve_embedded

    serve_embedded(
        EmbeddedRequest(
            folder,
            host,
            port,
            api_key,
            max_context,
            max_concurrency,
            max_waiting,
            reference,
            served_model_name,
            device,
            dtype,
            deadline,
            tuple(allow_origin),
        ),
        lambda facts: heard(*embedded_told(facts, host, api_key)),
    )
    return 0


def _made(
    checkpoint: str, progress: Progress, heard: Callable[[list[str], dict[str, Any]], None]
) -> str:
    """`checkpoint`, or in the demo model's place its 4-bit checkpoint, made on the first use."""
    from salient.models.demo import DEMO_NAME, demo_checkpoint

    if checkpoint != DEMO_NAME:
        return checkpoint
    folder = demo_checkpoint()
    if not (folder / "salient.json").exists():
        from .making import quantize

        heard([f"Quantizing {DEMO_NAME} into {folder}, once; it takes a minute or two."], {})
        # the width of 576 takes groups of 64
        quantize(DEMO_NAME, str(folder), scheme="w4-g64", samples=16, progress=progress)
    return str(folder)
