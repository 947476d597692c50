"""Verbs that run checkpoints."""

from collections.abc import Callable, Sequence
from typing import Any

from salient.core.progress import Progress, silent
from salient.core.report import Report

MOST_TOGETHER = 32  # prompts in one step; more wait for a free slot


def unheard(prompt: int, text: str) -> None:
    """A listener to generated text that does nothing."""


def load_engine(checkpoint: str, **options: Any) -> Any:
    """A checkpoint that generates: `.engine`, `.model`, `.audit` (runtime.open.Opened).

    `options` are the fields of runtime.open.Options: device, dtype, kv_dtype, fuse, compile,
    kernel, context, slots.
    """
    from salient.runtime.load_engine import EngineOptions, load

    return load(checkpoint, EngineOptions(**options))


def generate(
    checkpoint: str,
    *,
    prompt: Sequence[str],
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stop: Sequence[str] = (),
    chat: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    kv_dtype: str = "auto",
    fuse: bool = True,
    compile: str = "auto",
    kernel: str = "auto",
    context: int | None = None,
    heard: Callable[[int, str], None] = unheard,
) -> Report:
    """Texts that go on from each `prompt`, computed together, and how fast; greedy by default.

    `heard` gets (number of the prompt, text) as it comes.

    Raises RequestError for what cannot be asked, ModelError and CheckpointError for bad files.
    """
    from salient.runtime.generate import generate_texts
    from salient.runtime.load_engine import EngineOptions
    from salient.runtime.sampling_params import SamplingParams

    sampling = SamplingParams(
        max_new_tokens,
        temperature,
        top_p,
        top_k,
        min_p,
        repetition_penalty,
        seed=seed,
        stop=tuple(stop),
    )
    slots = min(max(len(prompt), 1), MOST_TOGETHER)
    options = EngineOptions(device, dtype, kv_dtype, fuse, compile, kernel, context, slots)
    return generate_texts(checkpoint, prompt, sampling, options, chat=chat, heard=heard)


def chat(
    checkpoint: str,
    *,
    system: str | None = None,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    kv_dtype: str = "auto",
    kernel: str = "auto",
    context: int | None = None,
) -> Any:
    """A conversation: `.say(text)` streams an answer (runtime.conversation.Conversation).

    What is None is as the model's makers sample it.
    """
    from salient.runtime.chat import Conversation, default_sampling
    from salient.runtime.load_engine import EngineOptions, load

    options = EngineOptions(device, dtype, kv_dtype, kernel=kernel, context=context, slots=1)
    opened = load(checkpoint, options)
    sampling = default_sampling(
        opened,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    return Conversation(opened, sampling, system)


def bench(
    checkpoint: str,
    *,
    reference: str | None = None,
    batch: str = "1,4,8,16,32",
    prompt: int = 128,
    new_tokens: int = 64,
    kernels: str = "auto",
    plot: str | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Report:
    """Kernels against each other on `checkpoint`: latency, throughput, memory, the winner.

    `batch` and `kernels` are lists with commas; `plot` is the name of a picture to draw.
    """
    from pathlib import Path

    from salient.runtime.bench.bench import BenchPlan, bench_checkpoint, sizes_of
    from salient.runtime.bench.plot import check_plot, plot_bench

    if plot:
        check_plot(Path(plot))
    names = tuple(kernels.split(","))
    plan = BenchPlan(checkpoint, reference, sizes_of(batch), prompt, new_tokens, names, device)
    report = bench_checkpoint(plan, progress)
    if plot:
        plot_bench(report.data, Path(plot))
        report.lines.append(f"Drawn in {plot}.")
    return report
