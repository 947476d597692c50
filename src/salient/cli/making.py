"""The commands that make and look at checkpoints."""

from typing import Annotated

import typer

from salient import api

from .console import Device, Json, cli_session, show


def quantize(
    model: Annotated[
        str, typer.Argument(help="A folder, a Hub id, or 'smollm2-135m' (the demo model).")
    ],
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="Folder to write; named after the model unless given."),
    ] = None,
    scheme: Annotated[
        str,
        typer.Option(
            help="w4-g128, w4-g64, w4-g32, each also with -sym; auto: the largest group that fits."
        ),
    ] = "w4-g128",
    format: Annotated[str, typer.Option(help="awq (AutoAWQ GEMM) or compressed-tensors.")] = "awq",
    calibration: Annotated[
        str,
        typer.Option(help="builtin, FILE.txt, FILE.jsonl, or a Hub data set (NAME or NAME:SPLIT)."),
    ] = "builtin",
    samples: Annotated[int, typer.Option(min=1, help="Calibration samples.")] = 128,
    sequence_length: Annotated[int, typer.Option(min=1, help="Tokens a sample.")] = 512,
    skip: Annotated[
        list[str] | None,
        typer.Option(help="Leave linears of this name or glob at 16 bits; may be given again."),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        str,
        typer.Option(help="16-bit type of the checkpoint: auto (the source's), float16, bfloat16."),
    ] = "auto",
    adapter: Annotated[
        str | None, typer.Option(help="LoRA adapter folder to merge before quantizing.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over; replace what is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, estimate memory, write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Quantize a model to 4 bits. An interrupted run goes on with the same command."""
    with cli_session(
        json=json, resumes="The same command goes on where this run stopped."
    ) as progress:
        report = api.quantize(
            model,
            output,
            scheme=scheme,
            format=format,
            calibration=calibration,
            samples=samples,
            sequence_length=sequence_length,
            skip=skip or (),
            device=device,
            dtype=dtype,
            adapter=adapter,
            fresh=fresh,
            dry_run=dry_run,
            progress=progress,
        )
    show(report, json=json)


def inspect(
    model: Annotated[
        str, typer.Argument(help="A checkpoint or a 16-bit model: folder, Hub id, 'smollm2-135m'.")
    ],
    runtime: Annotated[
        bool,
        typer.Option("--runtime", help="How it runs here: kernels, what was fused, and why not."),
    ] = False,
    json: Json = False,
) -> None:
    """Show a checkpoint's format, layers and evidence, or how a 16-bit model will be scaled."""
    with cli_session(json=json) as progress:
        report = api.inspect(model, runtime=runtime, progress=progress)
    show(report, json=json)
