"""The commands that answer questions: before a model is quantized, and when it is slow or wrong."""

from typing import Annotated

import typer

from salient import api

from .console import Json, cli_session, show


def plan(
    model: Annotated[
        str,
        typer.Argument(help="A folder, a config.json, a Hub id, or 'smollm2-135m'."),
    ],
    gpu: Annotated[
        str | None, typer.Option(help="A device, or several with commas to compare: 'RTX 4090'.")
    ] = None,
    vram: Annotated[
        float | None, typer.Option(help="GiB of a device that the catalogue does not know.")
    ] = None,
    engine: Annotated[str, typer.Option(help="vllm, transformers, llama.cpp or salient.")] = "vllm",
    context: Annotated[
        int | None, typer.Option(help="Tokens a sequence; 8192 or the model's own unless given.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Sequences together.")] = 1,
    tp: Annotated[int, typer.Option(help="GPUs to cut the model over (tensor parallel).")] = 1,
    kv_dtype: Annotated[
        str, typer.Option(help="Type of the KV cache: auto, fp8, q8_0, ... as the engine has it.")
    ] = "auto",
    require: Annotated[
        str, typer.Option(help="Bounds: ttft=1s,decode=30,throughput=500,memory=20GB,tune.")
    ] = "",
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt, for the first token.")] = 1024,
    engine_version: Annotated[str, typer.Option(help="vLLM's version.")] = "0.32",
    adr: Annotated[
        str | None, typer.Option(help="Write a decision record to this Markdown file.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what fits, which kernel runs, how fast, and what to take. Exit 1: nothing will do."""
    with cli_session(json=json):
        report = api.plan(
            model,
            gpu=gpu,
            vram=vram,
            engine=engine,
            context=context,
            concurrency=concurrency,
            tp=tp,
            kv_dtype=kv_dtype,
            require=require,
            prompt=prompt,
            engine_version=engine_version,
            adr=adr,
        )
        show(report, json=json)
    if not report.passed:
        raise typer.Exit(1)


def doctor(
    target: Annotated[
        str | None, typer.Argument(help="A checkpoint folder, or its config.json.")
    ] = None,
    log: Annotated[str | None, typer.Option(help="A log of vLLM or SGLang; - for stdin.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Serving settings: YAML, a command line, Python or JSON.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="The device that it runs on.")] = None,
    tp: Annotated[int | None, typer.Option(help="GPUs it is cut over (tensor parallel).")] = None,
    engine_version: Annotated[
        str | None, typer.Option(help="vLLM's version; the log's own unless given.")
    ] = None,
    env: Annotated[bool, typer.Option("--env", help="Look at this machine too.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on reading the log as it grows, until Ctrl-C.")
    ] = False,
    json: Json = False,
) -> None:
    """Find why a checkpoint, a log or a setting is slow or wrong. Exit 1: something is."""
    with cli_session(json=json) as progress:
        report = api.doctor(
            target,
            log=log,
            config=config,
            gpu=gpu,
            tp=tp,
            engine_version=engine_version,
            env=env,
            follow=follow,
            progress=progress,
            heard=_tell_json if json else _tell,
        )
    if not (json and follow):  # each finding was a document of its own
        show(report, json=json)
    if not report.passed:
        raise typer.Exit(1)


def _tell(lines: list[str], _: dict) -> None:
    print("\n".join(lines), flush=True)


def _tell_json(_: list[str], data: dict) -> None:
    import json

    print(json.dumps(data), flush=True)
