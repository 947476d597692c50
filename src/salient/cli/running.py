"""The commands that run checkpoints: generate, chat, bench."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from salient import api
from salient.api.running import unheard

from .chat_session import talk
from .console import Device, Json, cli_session, show

Checkpoint = Annotated[
    str, typer.Argument(help="A checkpoint, 4-bit or 16-bit: folder, Hub id, 'smollm2-135m'.")
]
TEMPERATURE = typer.Option(help="0 takes the likeliest token; higher is more varied.")
TOP_P = typer.Option(help="Keep the likeliest tokens up to this share.")
TOP_K = typer.Option(help="Keep only the k likeliest tokens; 0: all.")
MIN_P = typer.Option(help="Keep tokens at least this likely, next to the likeliest.")
REPETITION = typer.Option("--repetition-penalty", help="Above 1: repeat less.")
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same text.")]
Stop = Annotated[
    list[str] | None, typer.Option(help="End the answer at this text; may be given again.")
]
Dtype = Annotated[
    str, typer.Option(help="Type of the activations: auto, float32, bfloat16, float16.")
]
KvDtype = Annotated[
    str, typer.Option(help="Type of keys and values: auto (16 bits), float32, bfloat16, float16.")
]
Fuse = Annotated[bool, typer.Option("--fuse/--no-fuse", help="Run blocks fused where proven.")]
Compile = Annotated[
    str, typer.Option(help="torch.compile the decoding step: auto (on a GPU), on, off.")
]
Kernel = Annotated[str, typer.Option(help="auto, or one by name: triton, cpu, torch-int4, dense.")]
Context = Annotated[
    int | None, typer.Option(help="Most tokens of a prompt and its answer together.")
]


def generate(
    checkpoint: Checkpoint,
    prompt: Annotated[
        list[str],
        typer.Option("-p", "--prompt", help="Go on from this text; again for more; -: from stdin."),
    ],
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 256,
    temperature: Annotated[float, TEMPERATURE] = 0.0,
    top_p: Annotated[float, TOP_P] = 1.0,
    top_k: Annotated[int, TOP_K] = 0,
    min_p: Annotated[float, MIN_P] = 0.0,
    repetition_penalty: Annotated[float, REPETITION] = 1.0,
    seed: Seed = None,
    stop: Stop = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put each prompt through the chat template.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    kv_dtype: KvDtype = "auto",
    fuse: Fuse = True,
    compile: Compile = "auto",
    kernel: Kernel = "auto",
    context: Context = None,
    json: Json = False,
) -> None:
    """Go on from a prompt, or several together; greedy unless told otherwise."""
    texts = [sys.stdin.read() if text == "-" else text for text in prompt]
    alone = len(texts) == 1 and not json
    with cli_session(json=json):
        report = api.generate(
            checkpoint,
            prompt=texts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            stop=stop or (),
            chat=chat,
            device=device,
            dtype=dtype,
            kv_dtype=kv_dtype,
            fuse=fuse,
            compile=compile,
            kernel=kernel,
            context=context,
            heard=_speak if alone else unheard,
        )
    if json:
        show(report, json=True)
        return
    if alone:
        print()
    else:
        for number, each in enumerate(report.data["answers"]):
            print(f"--- {number + 1}: {each['prompt']}\n{each['text']}")
    figures = Console(stderr=True)
    if figures.is_terminal:
        report.show(figures)


def _speak(_: int, text: str) -> None:
    print(text, end="", flush=True)


def chat(
    checkpoint: Checkpoint,
    system: Annotated[str | None, typer.Option(help="What the model is told before all.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer at most.")] = None,
    temperature: Annotated[float | None, TEMPERATURE] = None,
    top_p: Annotated[float | None, TOP_P] = None,
    top_k: Annotated[int | None, TOP_K] = None,
    min_p: Annotated[float | None, MIN_P] = None,
    repetition_penalty: Annotated[float | None, REPETITION] = None,
    seed: Seed = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    kv_dtype: KvDtype = "auto",
    kernel: Kernel = "auto",
    context: Context = None,
) -> None:
    """Talk with a checkpoint. Ctrl-C stops an answer, not the chat; /help tells more."""
    with cli_session(json=False):
        conversation = api.chat(
            checkpoint,
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
            device=device,
            dtype=dtype,
            kv_dtype=kv_dtype,
            kernel=kernel,
            context=context,
        )
    talk(conversation)


def bench(
    checkpoint: Checkpoint,
    reference: Annotated[
        str | None, typer.Option(help="A 16-bit model to run beside it, as Transformers does.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Sequences together.")] = "1,4,8,16,32",
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of an answer.")] = 64,
    kernels: Annotated[str, typer.Option(help="all, or names: cpu,torch-int4,dense.")] = "auto",
    plot: Annotated[str | None, typer.Option(help="Draw them: FILE.png, .svg, .pdf.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Time kernels at several batch sizes: checked first, then latency, throughput, memory."""
    with cli_session(json=json) as progress:
        report = api.bench(
            checkpoint,
            reference=reference,
            batch=batch,
            prompt=prompt,
            new_tokens=new_tokens,
            kernels=kernels,
            plot=plot,
            device=device,
            progress=progress,
        )
    show(report, json=json)
