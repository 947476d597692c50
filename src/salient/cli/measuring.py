"""The commands that measure: a checkpoint against its reference, and a server."""

from typing import Annotated

import typer

from salient import api

from .console import Device, Json, cli_session, show

Checkpoint = Annotated[str, typer.Argument(help="A quantized checkpoint.")]
Reference = Annotated[
    str, typer.Option(help="The 16-bit model: a folder, a Hub id, or 'smollm2-135m'.")
]
Texts = Annotated[
    list[str] | None,
    typer.Option(help="A .txt or .jsonl file, or wikitext2, to measure on; may be given again."),
]
Windows = Annotated[
    int | None,
    typer.Option(min=1, help="Windows a text: 16, or with --protocol as many as it holds."),
]
WindowLength = Annotated[int, typer.Option(min=2, help="Tokens a window.")]
Stride = Annotated[
    int | None, typer.Option(help="Tokens from window to window; side by side unless given.")
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="In place of length and stride: classic (2048, as in papers) or sliding (2048, 512)."
    ),
]
Attribute = Annotated[
    bool, typer.Option("--attribute", help="Which blocks and kinds of layer cost most.")
]
ReportFolder = Annotated[
    str | None, typer.Option(help="Folder for report.html, report.md and report.json.")
]
TASKS = "A .jsonl file, a bundled set, 'bundled' or lm-eval:NAME; may be given again."


def evaluate(
    checkpoint: Checkpoint,
    reference: Reference,
    text: Texts = None,
    windows: Windows = None,
    window_length: WindowLength = 512,
    stride: Stride = None,
    protocol: Protocol = None,
    tasks: Annotated[list[str] | None, typer.Option(help=TASKS)] = None,
    contexts: Annotated[
        str, typer.Option(help="Context lengths with commas, auto, or off.")
    ] = "off",
    attribute: Attribute = False,
    report: ReportFolder = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure a checkpoint against its reference: KL, top-1 agreement, perplexity.

    --tasks, --contexts and --attribute measure those parts instead, or with --text besides.
    """
    with cli_session(json=json) as progress:
        made = api.evaluate(
            checkpoint,
            reference=reference,
            text=text or (),
            windows=windows,
            window_length=window_length,
            stride=stride,
            protocol=protocol,
            tasks=tasks or (),
            contexts=contexts,
            attribute=attribute,
            report=report,
            device=device,
            progress=progress,
        )
    show(made, json=json)


def validate(
    checkpoint: Checkpoint,
    reference: Reference,
    policy: Annotated[
        str, typer.Option(help="strict, balanced, lenient, or a TOML file of thresholds.")
    ] = "balanced",
    text: Texts = None,
    tasks: Annotated[
        list[str] | None, typer.Option(help=f"{TASKS} All bundled sets unless given; or off.")
    ] = None,
    contexts: Annotated[
        str, typer.Option(help="Context lengths with commas, auto, or off.")
    ] = "auto",
    load_test: Annotated[
        str, typer.Option(help="A server, for example http://localhost:8000; embedded; or off.")
    ] = "embedded",
    attribute: Attribute = False,
    windows: Windows = None,
    window_length: WindowLength = 512,
    stride: Stride = None,
    protocol: Protocol = None,
    report: ReportFolder = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Take what a stopped run has measured.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Ship or not: likelihood, tasks, long context and load, against a policy.

    Exit code 0: passed, 1: a rule does not hold, 2: it could not be measured.
    """
    with cli_session(
        json=json, resumes="With --resume the same command goes on from here."
    ) as progress:
        made = api.validate(
            checkpoint,
            reference=reference,
            policy=policy,
            text=text or (),
            tasks=tasks or (),
            contexts=contexts,
            load_test=load_test,
            attribute=attribute,
            windows=windows,
            window_length=window_length,
            stride=stride,
            protocol=protocol,
            report=report,
            resume=resume,
            device=device,
            progress=progress,
        )
    show(made, json=json)
    raise typer.Exit(made.data["verdict"]["exit_code"])


def load_test(
    url: Annotated[str, typer.Argument(help="The server, for example http://localhost:8000.")],
    model: Annotated[
        str | None, typer.Option(help="The served name; the first that the server lists.")
    ] = None,
    concurrency: Annotated[
        str, typer.Option(help="Requests at once, a step each, with commas.")
    ] = "1,4,8",
    rate: Annotated[
        float | None, typer.Option(help="Requests per second instead, at random times.")
    ] = None,
    requests: Annotated[int, typer.Option(help="Requests of a step.")] = 64,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of a prompt, about.")] = 256,
    new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 128,
    chat: Annotated[bool, typer.Option("--chat", help="Ask as a chat.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for a whole request.")] = 300.0,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.")] = 0,
    tool: Annotated[
        str,
        typer.Option(
            help="salient, vllm (`vllm bench serve`), or guidellm: read its results file, "
            "whose path replaces the server."
        ),
    ] = "salient",
    tokenizer: Annotated[str, typer.Option(help="For vllm: the model's folder or Hub id.")] = "",
    json: Json = False,
) -> None:
    """Time an OpenAI-compatible server. A key is read from OPENAI_API_KEY. Exit 1: some failed."""
    with cli_session(json=json) as progress:
        report = api.load_test(
            url,
            model=model,
            concurrency=concurrency,
            rate=rate,
            requests=requests,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            chat=chat,
            timeout=timeout,
            seed=seed,
            tool=tool,
            tokenizer=tokenizer,
            progress=progress,
        )
    show(report, json=json)
    if not report.passed:
        raise typer.Exit(1)
