"""The verb `bench`: verify and time kernels on one checkpoint."""

import gc
import random
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from salient.core.corpus import builtin
from salient.core.devices import find_device
from salient.core.errors import ModelError, RequestError
from salient.core.metrics import compare_logits
from salient.core.options import numbers, strings
from salient.core.report import Report
from salient.core.system import resident_memory
from salient.kernels.registry import FOREIGN, KERNELS, runs_on
from salient.runtime.load_engine import LoadedEngine, load
from salient.runtime.model_loader import LoadedModel, weight_bytes
from salient.runtime.options import BenchOptions, EngineOptions
from salient.runtime.sampling_params import SamplingParams

from .bench_report import (
    BenchBatch,
    BenchRow,
    BenchRun,
    Percentiles,
    bench_report,
    check_plot,
    plot_bench,
    winners,
)

CHECKED_TOKENS = 64
# Nats a token against the reference kernel in float32; kernels above are not timed. Usual: below
# 1e-6 in float32; 16-bit arithmetic alone gives 1e-3 to 3e-3 with a small model.
LARGEST_KL = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 1e-2}

REFERENCE = "16-bit"


def bench_checkpoint(options: BenchOptions) -> tuple[list[BenchRow], Report]:
    """Time to first token, between tokens, throughput and memory of every kernel, and a report.

    Raises RequestError for invalid options.
    """
    _check(options)
    names, counts = _names(options), numbers(options.concurrency)
    progress = options.progress
    total = 2 + len(names) * (1 + len(counts))
    progress(0, total, "measuring memory bandwidth")
    opened = _load(options, "reference")
    bandwidth = read_bandwidth(opened.model.device)
    progress(1, total, "the reference kernel's logits")
    text = " ".join(document.text for document in builtin("heldout")[:4])
    ids = opened.model.tokenizer(text).input_ids[:CHECKED_TOKENS]
    expected = _logits(opened, ids)
    device = str(opened.model.device)
    del opened
    rows, done = [], 2
    for name in names:
        progress(done, total, f"{name}: loading and checking")
        row, opened = _checked(options, name, ids, expected)
        rows.append(row)
        for count in counts if opened is not None else ():
            done += 1
            progress(done, total, f"{name}: {count} together")
            assert opened is not None
            row.batches.append(_measure(opened, count, options, row, bandwidth))
        done = 2 + len(rows) * (1 + len(counts))
        del opened
        gc.collect()
    progress(total, total, "done")
    run = BenchRun(
        checkpoint=str(options.checkpoint),
        device=device,
        threads=torch.get_num_threads(),
        prompt_tokens=options.prompt_tokens,
        new_tokens=options.max_new_tokens,
        bandwidth_bytes_a_second=bandwidth,
        rows=rows,
        winners=winners(rows),
    )
    report = bench_report(run)
    if options.plot:
        plot_bench(run, Path(options.plot))
        report.lines.append(f"Plot: {options.plot}")
    return rows, report


def _check(options: BenchOptions) -> None:
    if not numbers(options.concurrency):
        raise RequestError("--concurrency is empty. Give numbers of at least 1: 1,4,8.")
    kernels = [*KERNELS, *FOREIGN]
    unknown = [k for k in strings(options.kernels) if k not in ("all", "auto", *kernels)]
    if unknown:
        known = ", ".join(kernels)
        raise RequestError(f"Unknown kernel {unknown[0]!r}. Known: all, auto, {known}.")
    if options.plot:
        check_plot(Path(options.plot))


def _names(options: BenchOptions) -> list[str]:
    device, kernels = find_device(options.device), strings(options.kernels) or ("auto",)
    own = [name for name in KERNELS if name != "reference"]
    others = [name for name in FOREIGN if find_spec("vllm")]
    fit = [name for name in own + others if runs_on(name, device)]
    names = fit if "all" in kernels else list(kernels)
    return names + ([REFERENCE] if options.reference else [])


def _load(options: BenchOptions, kernel: str) -> LoadedEngine:
    """The checkpoint with one kernel, or the 16-bit reference."""
    sixteen = kernel == REFERENCE
    model = options.reference if sixteen else options.checkpoint
    cpu = find_device(options.device).type == "cpu"
    # These compute in 16-bit; all others in the dtype of the device.
    halves = sixteen or kernel in ("torch-int4", "dense")
    engine_options = EngineOptions(
        device=options.device,
        dtype="bfloat16" if halves and cpu else "auto",
        kernel="auto" if sixteen else kernel,
        context_length=max(options.prompt_tokens + options.max_new_tokens, CHECKED_TOKENS) + 1,
        slots=max(numbers(options.concurrency)),
    )
    return load(str(model), engine_options)


def _checked(
    options: BenchOptions, name: str, ids: list[int], expected: Tensor
) -> tuple[BenchRow, LoadedEngine | None]:
    """The kernel's row, and its engine unless it is refused."""
    try:
        opened = _load(options, name)
    except (ModelError, RequestError) as error:
        return BenchRow(name, refused=str(error)), None
    logits = _logits(opened, ids)
    kl = compare_logits(expected, logits, torch.zeros(len(logits), dtype=torch.long)).kl
    most, refused = LARGEST_KL[opened.model.dtype], None
    if name != REFERENCE and not kl <= most:
        refused = f"wrong results: KL {kl:.1e} to the reference kernel, {most} allowed"
    how, size = opened.engine.runner.how, bytes_a_step(opened.model)
    return BenchRow(name, kl, refused, how, size), None if refused else opened


def _ids(opened: LoadedEngine, count: int, seed: int = 0) -> list[int]:
    """Random tokens: the content does not change the time."""
    most = len(opened.model.tokenizer)
    return [random.Random(seed + i).randrange(most) for i in range(count)]


def _logits(opened: LoadedEngine, ids: list[int]) -> Tensor:
    """Logits float32 [tokens, vocab] after each of `ids`, one token at a time, as it decodes."""
    runner = opened.engine.runner
    half = len(ids) // 2
    first = runner.prefill(0, ids[:half], 0)
    rest = [runner.decode([0], [token], [half + i])[0] for i, token in enumerate(ids[half:])]
    return torch.stack([first, *rest]).float().cpu()


def _measure(
    opened: LoadedEngine, count: int, options: BenchOptions, row: BenchRow, bandwidth: float
) -> BenchBatch:
    """Time `count` concurrent requests, after a warm-up."""
    sampling = SamplingParams(max_new_tokens=options.max_new_tokens, ignore_eos=True)
    warm = SamplingParams(max_new_tokens=2, ignore_eos=True)
    opened.engine.generate([_ids(opened, 8, 7)] * min(count, 2), warm)
    prompts = [_ids(opened, options.prompt_tokens, 1000 * (i + 1)) for i in range(count)]
    answers = opened.engine.generate(prompts, sampling)
    together = max(answer.times[0] for answer in answers)
    between = Percentiles.of([gap for answer in answers for gap in _gaps(answer.times, together)])
    seconds = max(answer.times[-1] for answer in answers) - min(a.started for a in answers)
    device = opened.model.device
    return BenchBatch(
        batch=count,
        first_token_seconds=Percentiles.of([answer.seconds_to_first for answer in answers]),
        between_tokens_seconds=between,
        tokens_a_second=count / between.p50,
        tokens_a_second_with_prefill=sum(len(answer.tokens) for answer in answers) / seconds,
        memory_bytes=resident_memory()
        if device.type == "cpu"
        else torch.cuda.max_memory_allocated(device),
        share_of_bandwidth=row.weight_bytes_a_step / between.p50 / bandwidth,
    )


def _gaps(times: list[float], since: float) -> list[float]:
    """Seconds between its tokens once all sequences run; between all where that leaves none."""
    late = [time for time in times if time >= since]
    return [b - a for a, b in pairwise(late if len(late) > 1 else times)]


PROBE_BYTES = 2**29  # larger than any cache
PROBE_RUNS = 5


def bytes_a_step(model: LoadedModel) -> int:
    """Bytes of weights that one decoding step reads: all but the embedding, unless tied."""
    embedding, head = model.embedding, model.module.get_output_embeddings()
    tied = head is not None and head.weight.data_ptr() == embedding.weight.data_ptr()
    return weight_bytes(model.module) - (0 if tied else weight_bytes(embedding))


def read_bandwidth(device: torch.device) -> float:
    """Bytes a second at which torch reads memory here: the best of a few sums of 512 MiB.

    On a GPU a copy is timed, and both directions count, as vendors and STREAM do.
    """
    buffer, taken = torch.ones(PROBE_BYTES // 4, device=device), []
    on_gpu = device.type != "cpu"
    target = torch.empty_like(buffer) if on_gpu else buffer
    for _ in range(PROBE_RUNS):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        if on_gpu:
            target.copy_(buffer)
            torch.cuda.synchronize()
        else:
            buffer.sum()
        taken.append(time.perf_counter() - start)
    return (1 + on_gpu) * PROBE_BYTES / min(taken)
