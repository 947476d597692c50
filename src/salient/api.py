"""The verbs of Salient, with the words of the command line. Wires the floors, computes nothing.

report = quantize("smollm2-135m", "out", scheme="w4-g64") report = evaluate("out",
reference="smollm2-135m") report = inspect("out") model, tokenizer = load("out")
"""

from collections.abc import Callable, Sequence
from typing import Any

from salient.core.progress import Progress, silent
from salient.core.report import Report

MOST_TOGETHER = 32  # prompts in one step; more wait for a free slot


def unheard(prompt: int, text: str) -> None:
    """A listener to generated text that does nothing."""


def unheard_finding(lines: list[str], data: dict[str, Any]) -> None:
    """A listener to findings that does nothing."""


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
    stride: int | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Report:
    """KL, top-1 and perplexity of `checkpoint` against `reference` over the same windows."""
    from salient.awq.evaluation import Measure, evaluate_checkpoint

    measure = Measure(tuple(text), windows, window_length, stride)
    return evaluate_checkpoint(checkpoint, reference, measure, device, progress)


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
    from salient.runtime.open import Options
    from salient.runtime.sampling import Sampling

    sampling = Sampling(
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
    options = Options(device, dtype, kv_dtype, fuse, compile, kernel, context, slots)
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
    from salient.runtime.conversation import Conversation, default_sampling
    from salient.runtime.open import Options, load

    options = Options(device, dtype, kv_dtype, kernel=kernel, context=context, slots=1)
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

    from salient.runtime.bench import Plan, bench_checkpoint, sizes_of
    from salient.runtime.plot import check_plot, plot_bench

    if plot:
        check_plot(Path(plot))
    names = tuple(kernels.split(","))
    plan = Plan(checkpoint, reference, sizes_of(batch), prompt, new_tokens, names, device)
    report = bench_checkpoint(plan, progress)
    if plot:
        plot_bench(report.data, Path(plot))
        report.lines.append(f"Drawn in {plot}.")
    return report


def plan(
    model: str,
    *,
    gpu: str | None = None,
    vram: float | None = None,
    engine: str = "vllm",
    context: int | None = None,
    concurrency: int = 1,
    tp: int = 1,
    kv_dtype: str = "auto",
    require: str = "",
    prompt: int = 1024,
    engine_version: str = "0.32",
    adr: str | None = None,
) -> Report:
    """What fits, which kernel runs and how fast, for every format; which one to take, and why.

    `gpu` is a device of the catalogue, or several with commas to compare; `vram` is in GiB.
    `adr` is a Markdown file to write the decision to. The report passed if some format will do.

    Raises ModelError for the model, RequestError for what cannot be asked.
    """
    from salient.plan.planner import Request, make_plan
    from salient.plan.telling import tell

    made = make_plan(
        Request(
            model,
            gpu,
            vram,
            engine,
            context,
            concurrency,
            tp,
            kv_dtype,
            require,
            prompt,
            engine_version,
        )
    )
    report = tell(made)
    if adr:
        from datetime import date
        from pathlib import Path

        from salient.plan.record import write_record

        write_record(made, Path(adr), date.today())
        report.lines.append(f"Decision record: {adr}")
    return report


def doctor(
    target: str | None = None,
    *,
    log: str | None = None,
    config: str | None = None,
    gpu: str | None = None,
    tp: int | None = None,
    engine_version: str | None = None,
    env: bool = False,
    follow: bool = False,
    progress: Progress = silent,
    heard: Callable[[list[str], dict[str, Any]], None] = unheard_finding,
) -> Report:
    """What is wrong or slow with a checkpoint, a log, serving settings or this machine, and why.

    With `follow` the log is read as it grows, and `heard` gets each finding as lines and as data.
    The report passed if nothing is wrong or slow.

    Raises ModelError, CheckpointError or RequestError for what cannot be read at all.
    """
    from salient.diagnose.doctor import Request, diagnose
    from salient.diagnose.telling import tell, tell_as_found

    request = Request(target, log, config, gpu, tp, engine_version, env)
    if follow:
        return tell_as_found(request, heard)
    return tell(diagnose(request, progress))


def load_test(
    url: str,
    *,
    model: str,
    concurrency: str = "1,4,8",
    rate: float | None = None,
    requests: int = 64,
    prompt_tokens: int = 256,
    new_tokens: int = 128,
    chat: bool = False,
    timeout: float = 300.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Report:
    """Latencies and throughput of an OpenAI-compatible server, step by step.

    `concurrency` is a list with commas; `rate` (requests a second) takes its place. A key is read
    from OPENAI_API_KEY. The report passed if no request failed.

    Raises RequestError for what cannot be asked; a server that fails is no error but a figure.
    """
    import os

    from salient.evals.load.plans import LoadPlan, Target, steps_of
    from salient.evals.load.runs import run_load
    from salient.evals.load.telling import tell

    kind = "chat" if chat else "completions"
    target = Target(url, model, kind, os.environ.get("OPENAI_API_KEY"), timeout)
    plan = LoadPlan(
        steps_of(concurrency, rate),
        requests,
        prompt_tokens=prompt_tokens,
        output_tokens=new_tokens,
        seed=seed,
    )
    return tell(target, run_load(target, plan, progress))
