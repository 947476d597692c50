"""The command line: parse, call one function of `salient.api`, print its report, exit.

Exit codes: 0 done, 1 a verdict says no, 2 an error (its message alone), 130 interrupted.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from salient import __version__, api
from salient.core.errors import SalientError
from salient.core.report import Report

app = typer.Typer(
    help="Turn a language model into a 4-bit AWQ checkpoint, with proof and figures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Turn a language model into a 4-bit AWQ checkpoint, with proof and figures."""
    if version:
        print(f"salient {__version__}")
        raise typer.Exit


@app.command()
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
    with _told(json=json) as progress:
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
    _show(report, json=json)


@app.command()
def inspect(
    model: Annotated[
        str, typer.Argument(help="A checkpoint or a 16-bit model: folder, Hub id, 'smollm2-135m'.")
    ],
    json: Json = False,
) -> None:
    """Show a checkpoint's format, layers and evidence, or how a 16-bit model will be scaled."""
    with _told(json=json) as progress:
        report = api.inspect(model, progress=progress)
    _show(report, json=json)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A quantized checkpoint.")],
    reference: Annotated[
        str, typer.Option(help="The 16-bit model: a folder, a Hub id, or 'smollm2-135m'.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(help="A .txt or .jsonl file to measure on; may be given again."),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Windows a text.")] = 16,
    window_length: Annotated[int, typer.Option(min=2, help="Tokens a window.")] = 512,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure a checkpoint against its reference: KL, top-1 agreement, perplexity."""
    with _told(json=json) as progress:
        report = api.evaluate(
            checkpoint,
            reference=reference,
            text=text or (),
            windows=windows,
            window_length=window_length,
            device=device,
            progress=progress,
        )
    _show(report, json=json)


@contextlib.contextmanager
def _told(*, json: bool) -> Iterator[api.Progress]:
    """A progress bar on a terminal, nothing elsewhere; our errors as messages with exit code 2."""
    console, stop = Console(stderr=True), _Stop()
    try:
        with _bar(console, shown=console.is_terminal and not json) as progress:
            yield stop.checked_by(progress)
    except BaseException as error:
        if stop.came:
            words = "Interrupted. The same command goes on where this run stopped."
            console.print(words, soft_wrap=True)
            raise typer.Exit(130) from None
        if not isinstance(error, SalientError):
            raise
        if json:
            Console().print_json(data={"error": type(error).__name__, "message": str(error)})
        console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


class _Stop:
    """Ctrl-C or a SIGTERM, remembered: libraries turn the exception into others, or swallow it."""

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:  # as a shell starts background jobs
                signal.signal(number, self._note)

    def _note(self, *_: object) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt

    def checked_by(self, progress: api.Progress) -> api.Progress:
        """`progress`, which also ends the run if a signal's exception was swallowed."""

        def checked(done: int, total: int, doing: str, note: str) -> None:
            if self.came:
                raise KeyboardInterrupt
            progress(done, total, doing, note)

        return checked


@contextlib.contextmanager
def _bar(console: Console, *, shown: bool) -> Iterator[api.Progress]:
    _quiet_libraries()
    if not shown:
        yield api.silent
        return
    doing = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False, table_column=doing),
    )
    with Progress(*columns, console=console, expand=True) as bar:
        task = bar.add_task("preparing", total=None)
        last = ""

        def progress(done: int, total: int, doing: str, note: str) -> None:
            nonlocal last
            last = note or last
            bar.update(task, completed=done, total=total, description=f"{doing}  {last}".rstrip())

        yield progress


def _quiet_libraries() -> None:
    """Transformers' and the Hub's own bars and warnings would tear ours."""
    import logging
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers").setLevel(logging.ERROR)


def _show(report: Report, *, json: bool) -> None:
    if json:
        sys.stdout.write(report.to_json() + "\n")
    else:
        report.show(Console())


if __name__ == "__main__":
    app()
