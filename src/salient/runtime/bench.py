"""The verb `bench`: kernels against each other on one checkpoint, checked before they are timed."""

import gc
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from salient.core.errors import ModelError, RequestError
from salient.core.machine import resident_memory
from salient.core.report import Report, Table, mebibytes
from salient.evals.likelihood import compare_logits
from salient.kernels.choose import KERNELS

from .engine import Answer
from .memory import bytes_a_step, read_bandwidth
from .open import Opened, Options, load
from .sampling import Sampling

Progress = Callable[[int, int, str, str], None]
CHECKED_TOKENS = 64
LARGEST_KL = 1e-3  # nats a token against the reference kernel; more is wrong and is not timed
PERCENTILES = (50, 90, 99)
REFERENCE = "16-bit reference"


@dataclass(frozen=True)
class Plan:
    """What to measure: batch sizes, tokens of prompts and answers, kernels ('all' or names)."""

    checkpoint: str
    reference: str | None = None
    batches: tuple[int, ...] = (1, 4, 8, 16, 32)
    prompt: int = 128
    new_tokens: int = 64
    kernels: tuple[str, ...] = ()
    device: str = "auto"

    def check(self) -> None:
        """Raise RequestError for what cannot be measured."""
        if not self.batches or min(self.batches) < 1:
            raise RequestError(f"batch={list(self.batches)}. Give sizes of at least 1: 1,4,8.")
        if self.prompt < 1 or self.new_tokens < 2:
            raise RequestError(
                f"{self.prompt} prompt tokens and {self.new_tokens} new ones. Give at least 1 and "
                "2: the time between tokens needs two."
            )
        unknown = [k for k in self.kernels if k not in (*KERNELS, "all", "auto")]
        if unknown:
            known = ", ".join(KERNELS)
            raise RequestError(f"Unknown kernel {unknown[0]!r}. Known: all, auto, {known}.")


@dataclass
class Measured:
    """One kernel at one batch size; seconds, per request and per token."""

    batch: int
    first: list[float]
    between: list[float]
    tokens: int
    seconds: float
    memory: int

    @property
    def speed(self) -> float:
        """New tokens a second, all sequences together, once they run."""
        return self.batch / statistics.median(self.between)


@dataclass
class Row:
    """One way to run the checkpoint. refused: why it was not measured"""

    name: str
    kl: float | None = None
    refused: str = ""
    weights: int = 0
    how: str = ""
    measured: list[Measured] = field(default_factory=list)


def bench_checkpoint(plan: Plan, progress: Progress) -> Report:
    """Time to first token, between tokens, throughput and memory of every kernel, as a report."""
    plan.check()
    names = _names(plan)
    total = 2 + len(names) * (1 + len(plan.batches))
    progress(0, total, "measuring memory bandwidth", "")
    options = Options(device=plan.device)
    opened = _load(plan, options, "reference")
    bandwidth = read_bandwidth(opened.model.device)
    progress(1, total, "the reference kernel's logits", "")
    ids = _ids(opened, CHECKED_TOKENS)
    wanted = _logits(opened, ids)
    device = str(opened.model.device)
    del opened
    rows, done = [], 2
    for name in names:
        progress(done, total, f"{name}: loading and checking", "")
        row, opened = _checked(plan, name, ids, wanted)
        rows.append(row)
        for batch in plan.batches if opened is not None else ():
            done += 1
            progress(done, total, f"{name}: {batch} together", "")
            assert opened is not None
            row.measured.append(measure(opened, batch, plan.prompt, plan.new_tokens))
        done = 2 + len(rows) * (1 + len(plan.batches))
        del opened
        gc.collect()
    progress(total, total, "done", "")
    return _report(plan, rows, bandwidth, device)


def _names(plan: Plan) -> list[str]:
    asked = plan.kernels or ("auto",)
    names = [name for name in KERNELS if name != "reference"] if "all" in asked else list(asked)
    return names + ([REFERENCE] if plan.reference else [])


def _load(plan: Plan, options: Options, kernel: str) -> Opened:
    """The checkpoint with one kernel, or the 16-bit reference as Transformers runs it."""
    sixteen = kernel == REFERENCE
    model = plan.reference if sixteen else plan.checkpoint
    cpu = options.device == "cpu" or not torch.cuda.is_available()
    # These compute in 16 bits; everything else in what suits the device.
    halves = sixteen or kernel in ("torch-int4", "dense")
    made = Options(
        device=options.device,
        dtype="bfloat16" if halves and cpu else "auto",
        fuse=not sixteen,
        kernel="auto" if sixteen else kernel,
        context=plan.prompt + plan.new_tokens + 1,
        slots=max(plan.batches),
    )
    assert model is not None
    return load(model, made)


def _checked(plan: Plan, name: str, ids: list[int], wanted: Tensor) -> tuple[Row, Opened | None]:
    row = Row(name)
    try:
        opened = _load(plan, Options(device=plan.device), name)
    except (ModelError, RequestError) as error:
        row.refused = str(error)
        return row, None
    row.weights, row.how = bytes_a_step(opened.model), opened.engine.runner.how
    made = _logits(opened, ids)
    row.kl = compare_logits(wanted, made, torch.zeros(len(made), dtype=torch.long)).kl
    if name != REFERENCE and not row.kl <= LARGEST_KL:
        row.refused = f"it is wrong: KL {row.kl:.1e} to the reference kernel, {LARGEST_KL} allowed"
        return row, None
    return row, opened


def _ids(opened: Opened, count: int, seed: int = 0) -> list[int]:
    """Random tokens: what they say makes no difference to the time."""
    most = len(opened.model.tokenizer)
    return [random.Random(seed + i).randrange(most) for i in range(count)]


def _logits(opened: Opened, ids: list[int]) -> Tensor:
    """Logits float32 [tokens, vocab] after each of `ids`, one token at a time, as it decodes."""
    runner = opened.engine.runner
    half = len(ids) // 2
    first = runner.prefill(0, ids[:half], 0)
    rest = [runner.decode([0], [token], [half + i])[0] for i, token in enumerate(ids[half:])]
    return torch.stack([first, *rest]).float().cpu()


def measure(opened: Opened, batch: int, prompt: int, new_tokens: int) -> Measured:
    """`batch` requests handed in together, after a short run that does not count."""
    sampling = Sampling(max_new_tokens=new_tokens, ignore_eos=True)
    warm = Sampling(max_new_tokens=2, ignore_eos=True)
    opened.engine.generate([_ids(opened, 8, 7)] * min(batch, 2), warm)
    prompts = [_ids(opened, prompt, 1000 * (i + 1)) for i in range(batch)]
    answers = opened.engine.generate(prompts, sampling)
    together = max(answer.times[0] for answer in answers)
    between = [gap for answer in answers for gap in _gaps(answer, together)]
    ended = max(answer.times[-1] for answer in answers)
    return Measured(
        batch,
        [answer.seconds_to_first for answer in answers],
        between,
        sum(len(answer.tokens) for answer in answers),
        ended - min(answer.started for answer in answers),
        resident_memory()
        if opened.model.device.type == "cpu"
        else torch.cuda.max_memory_allocated(opened.model.device),
    )


def _gaps(answer: Answer, since: float) -> list[float]:
    """Seconds between its tokens once all sequences run; between all where that leaves none."""
    late = [t for t in answer.times if t >= since]
    times = late if len(late) > 1 else answer.times
    return [b - a for a, b in pairwise(times)]


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of them are at most, interpolated."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(percent / 100))


def _report(plan: Plan, rows: list[Row], bandwidth: float, device: str) -> Report:
    data: dict[str, Any] = {
        "checkpoint": plan.checkpoint,
        "device": device,
        "threads": torch.get_num_threads(),
        "prompt_tokens": plan.prompt,
        "new_tokens": plan.new_tokens,
        "bandwidth_bytes_a_second": bandwidth,
        "rows": [_plain(row, bandwidth) for row in rows],
        "winners": winners(rows),
    }
    columns = (
        "kernel",
        "together",
        "first token p50/p90/p99 ms",
        "between tokens p50/p90/p99 ms",
        "tokens/s",
        "memory",
        "of bandwidth",
    )
    table = [cells for row in data["rows"] for cells in _cells(row)]
    lines = [f"{device}, memory bandwidth measured: {bandwidth / 1e9:.1f} GB/s."]
    for row in rows:
        if row.refused:
            lines.append(f"{row.name} was not measured: {row.refused}")
        elif row.kl is not None:
            lines.append(f"{row.name}: KL to the reference kernel {row.kl:.1e}; {row.how}.")
    lines += [
        f"{w['batch']} together: {w['kernel']} wins with {w['tokens_a_second']:.1f} tokens/s"
        + (f", {w['ratio']:.2f} times {w['next']}." if w["next"] else ".")
        for w in data["winners"]
    ]
    return Report(data, [Table(str(plan.checkpoint), columns, table)], lines)


def _plain(row: Row, bandwidth: float) -> dict[str, Any]:
    return {
        "kernel": row.name,
        "kl": row.kl,
        "refused": row.refused or None,
        "runs_as": row.how,
        "weight_bytes_a_step": row.weights,
        "batches": [
            {
                "batch": m.batch,
                "first_token_seconds": _percentiles(m.first),
                "between_tokens_seconds": _percentiles(m.between),
                "tokens_a_second": m.speed,
                "tokens_a_second_with_prefill": m.tokens / m.seconds,
                "memory_bytes": m.memory,
                "share_of_bandwidth": row.weights / percentile(m.between, 50) / bandwidth,
            }
            for m in row.measured
        ],
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    return {f"p{p}": percentile(values, p) for p in PERCENTILES}


def _cells(row: dict[str, Any]) -> list[tuple[str, ...]]:
    def milliseconds(told: dict[str, float]) -> str:
        return " / ".join(f"{1e3 * value:.1f}" for value in told.values())

    return [
        (
            row["kernel"],
            str(b["batch"]),
            milliseconds(b["first_token_seconds"]),
            milliseconds(b["between_tokens_seconds"]),
            f"{b['tokens_a_second']:.1f}",
            mebibytes(b["memory_bytes"]),
            f"{b['share_of_bandwidth']:.0%}",
        )
        for b in row["batches"]
    ]


def winners(rows: list[Row]) -> list[dict[str, Any]]:
    """For each batch size the fastest kernel, and how much faster than the next it is."""
    won = []
    for batch in dict.fromkeys(m.batch for row in rows for m in row.measured):
        speeds = [(m.speed, row.name) for row in rows for m in row.measured if m.batch == batch]
        (speed, name), *others = sorted(speeds, reverse=True)
        nearest = others[0] if others else (None, None)
        ratio = speed / nearest[0] if nearest[0] else None
        won.append(
            {
                "batch": batch,
                "kernel": name,
                "tokens_a_second": speed,
                "next": nearest[1],
                "ratio": ratio,
            }
        )
    return won
