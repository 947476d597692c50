"""The commands that measure something that runs."""

from typing import Annotated

import typer

from salient import api

from .terminal import Json, show, told


def load_test(
    url: Annotated[str, typer.Argument(help="The server, for example http://localhost:8000.")],
    model: Annotated[str, typer.Option(help="The name that the server serves it by.")],
    concurrency: Annotated[
        str, typer.Option(help="Requests at once, a step each, with commas.")
    ] = "1,4,8",
    rate: Annotated[
        float | None, typer.Option(help="Requests a second instead, coming by chance.")
    ] = None,
    requests: Annotated[int, typer.Option(help="Requests of a step.")] = 64,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of a prompt, about.")] = 256,
    new_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 128,
    chat: Annotated[bool, typer.Option("--chat", help="Ask as a chat.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for a whole request.")] = 300.0,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.")] = 0,
    json: Json = False,
) -> None:
    """Time an OpenAI-compatible server. A key is read from OPENAI_API_KEY. Exit 1: some failed."""
    with told(json=json) as progress:
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
            progress=progress,
        )
    show(report, json=json)
    if not report.passed:
        raise typer.Exit(1)
