"""The command that serves."""

from typing import Annotated

import typer

from salient import api

from .console import Device, Json, cli_session


def serve(
    checkpoint: Annotated[
        str,
        typer.Argument(help="A checkpoint, 4-bit or 16-bit: folder, Hub id, 'smollm2-135m'."),
    ],
    vllm_args: Annotated[
        list[str] | None, typer.Argument(help="After --: words for vLLM, as they are.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="embedded, vllm, or auto: vLLM where it is found.")
    ] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on; this machine's own.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    served_model_name: Annotated[
        str | None, typer.Option(help="The name that clients use; the folder's unless given.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SALIENT_API_KEY", help="Asked of clients; better given as SALIENT_API_KEY."
        ),
    ] = None,
    max_context: Annotated[
        int | None, typer.Option(help="Most tokens of a prompt and its answer together.")
    ] = None,
    max_concurrency: Annotated[
        int | None, typer.Option(help="Sequences at once; as many as memory holds unless given.")
    ] = None,
    max_waiting: Annotated[
        int, typer.Option(help="Requests in line before more are refused (429).")
    ] = 256,
    reference: Annotated[
        str | None, typer.Option(help="The 16-bit model, to see beside it in the explorer.")
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        str, typer.Option(help="Type of the activations: auto, float32, bfloat16, float16.")
    ] = "auto",
    tp: Annotated[int, typer.Option(help="GPUs to cut the model over (vLLM).")] = 1,
    vllm_python: Annotated[
        str | None, typer.Option(help="The Python of an environment that has vLLM.")
    ] = None,
    print_command: Annotated[
        bool, typer.Option("--print-command", help="Print vLLM's command and end.")
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Let pages of this origin ask (CORS); may be given again."),
    ] = None,
    deadline: Annotated[
        int, typer.Option(min=0, help="Seconds that running requests have after Ctrl-C.")
    ] = 30,
    json: Json = False,
) -> None:
    """Serve a checkpoint to OpenAI's clients, with a page to look into it at /."""
    with cli_session(json=json) as progress:
        code = api.serve(
            checkpoint,
            vllm_args or (),
            engine=engine,
            host=host,
            port=port,
            served_model_name=served_model_name,
            api_key=api_key,
            max_context=max_context,
            max_concurrency=max_concurrency,
            max_waiting=max_waiting,
            reference=reference,
            device=device,
            dtype=dtype,
            tp=tp,
            vllm_python=vllm_python,
            print_command=print_command,
            allow_origin=allow_origin or (),
            deadline=deadline,
            progress=progress,
            heard=_tell_json if json else _tell,
        )
    if code:
        raise typer.Exit(code)


def _tell(lines: list[str], _: dict) -> None:
    print("\n".join(lines), flush=True)  # a bar that is drawn meanwhile stays below it


def _tell_json(lines: list[str], data: dict) -> None:
    import json

    print(json.dumps(data or {"said": "\n".join(lines)}), flush=True)
