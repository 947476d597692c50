"""The verbs of Salient, with the words of the command line. Wires the floors, computes nothing.

report = quantize("smollm2-135m", "out", scheme="w4-g64") report = evaluate("out",
reference="smollm2-135m") report = inspect("out") model, tokenizer = load("out")
"""

from collections.abc import Callable, Sequence
from typing import Any

from salient.core.report import Report

Progress = Callable[
    [int, int, str, str], None
]  # steps done, steps in all, what is being done, a word on the last step


def silent(done: int, total: int, doing: str, note: str) -> None:
    """A progress that shows nothing."""


def unheard(prompt: int, text: str) -> None:
    """A listener to generated text that does nothing."""


def quantize(
    model: str,
    output: str | None = None,
    *,
    scheme: str = "w4-g128",
    format: str = "awq",
    calibration: str = "builtin",
    samples: int = 128,
    sequence_length: int = 512,
    skip: Sequence[str] = (),
    device: str = "auto",
    dtype: str = "auto",
    adapter: str | None = None,
    fresh: bool = False,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Report:
    """Quantize `model` (folder, Hub id or 'smollm2-135m') into the folder `output`.

    Goes on with an unfinished run.

    Raises SalientError with what was found, what fits and what to do next.
    """
    from salient.awq.job import Request
    from salient.awq.quantizer import quantize_model

    request = Request(
        model,
        output,
        scheme,
        format,
        calibration,
        samples,
        sequence_length,
        tuple(skip),
        device,
        dtype,
        adapter,
    )
    return quantize_model(request, fresh=fresh, dry_run=dry_run, progress=progress)


def inspect(model: str, *, runtime: bool = False, progress: Progress = silent) -> Report:
    """What is in a checkpoint: format, scheme, layers, sizes, evidence if it has any.

    With `runtime`: how it runs on this machine, which kernels, what was fused and what not, why.

    Of a 16-bit model: its kinds of blocks as `quantize` will see them, with their scale groups,
    absorbers, readers and proof errors, and what stays at 16 bits.
    """
    if runtime:
        from salient.runtime.audit import inspect_runtime
        from salient.runtime.open import Options

        return inspect_runtime(model, Options())
    from salient.models.inspection import inspect_checkpoint

    return inspect_checkpoint(model, progress)


def evaluate(
    checkpoint: str,
    *,
    reference: str,
    text: Sequence[str] = (),
    windows: int = 16,
    window_length: int = 512,
    device: str = "auto",
    progress: Progress = silent,
) -> Report:
    """KL, top-1 and perplexity of `checkpoint` against `reference` over the same windows."""
    from salient.awq.evaluation import evaluate_checkpoint

    return evaluate_checkpoint(
        checkpoint, reference, tuple(text), windows, window_length, device, progress
    )


def load(checkpoint: str, *, dtype: str = "auto", device: str = "cpu") -> tuple[Any, Any]:
    """(model, tokenizer): a Transformers model with the checkpoint's weights, dequantized.

    Exact in float32, which is `dtype` 'auto'.
    """
    from salient.models.whole import load_dequantized

    return load_dequantized(checkpoint, dtype, device)


def load_engine(checkpoint: str, **options: Any) -> Any:
    """A checkpoint that generates: `.engine`, `.model`, `.audit` (runtime.open.Opened).

    `options` are the fields of runtime.open.Options: device, dtype, kv_dtype, fuse, compile,
    kernel, context, slots.
    """
    from salient.runtime.open import Options, load

    return load(checkpoint, Options(**options))


def generate(
    checkpoint: str,
    prompts: str | Sequence[str],
    *,
    sampling: dict[str, Any] | None = None,
    chat: bool = False,
    heard: Callable[[int, str], None] = unheard,
    **options: Any,
) -> Report:
    """Texts that go on from `prompts`, computed together, and how fast.

    `sampling` are the fields of runtime.sampling.Sampling; `heard` gets (prompt, text) as it comes.
    """
    from salient.runtime.generate import generate_texts
    from salient.runtime.open import Options
    from salient.runtime.sampling import Sampling

    texts = [prompts] if isinstance(prompts, str) else prompts
    made = Options(**{"slots": max(len(texts), 1), **options})
    return generate_texts(
        checkpoint, texts, Sampling(**sampling or {}), made, chat=chat, heard=heard
    )


def conversation(
    checkpoint: str,
    *,
    system: str | None = None,
    sampling: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A chat with `checkpoint`: `.say(text)` streams an answer (runtime.conversation).

    What `sampling` leaves out or has as None is as the model's makers set it.
    """
    from salient.runtime.conversation import Conversation, default_sampling
    from salient.runtime.open import Options, load

    opened = load(checkpoint, Options(**{"slots": 1, **options}))
    return Conversation(opened, default_sampling(opened, **sampling or {}), system)


def bench(
    checkpoint: str,
    *,
    reference: str | None = None,
    batches: Sequence[int] = (1, 4, 8, 16, 32),
    prompt: int = 128,
    new_tokens: int = 64,
    kernels: Sequence[str] = ("auto",),
    plot: str | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Report:
    """Kernels against each other on `checkpoint`: latency, throughput, memory, the winner."""
    from pathlib import Path

    from salient.runtime.bench import Plan, bench_checkpoint
    from salient.runtime.plot import check_plot, plot_bench

    if plot:
        check_plot(Path(plot))
    plan = Plan(checkpoint, reference, tuple(batches), prompt, new_tokens, tuple(kernels), device)
    report = bench_checkpoint(plan, progress)
    if plot:
        plot_bench(report.data, Path(plot))
        report.lines.append(f"Drawn in {plot}.")
    return report
