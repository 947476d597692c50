"""Results of `bench`: records, the report, the plot."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from salient.core.errors import MissingExtra, RequestError
from salient.core.records import to_json
from salient.core.report import Report, Table

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Percentiles:
    """Interpolated percentiles of seconds."""

    p50: float
    p90: float
    p99: float

    @staticmethod
    def of(values: Sequence[float]) -> "Percentiles":
        shares = torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)
        return Percentiles(*torch.tensor(values, dtype=torch.float64).quantile(shares).tolist())


@dataclass(frozen=True)
class BenchBatch:
    """One kernel at one number of concurrent sequences.

    tokens_a_second: new tokens of all sequences together, once they run
    """

    batch: int
    first_token_seconds: Percentiles
    between_tokens_seconds: Percentiles
    tokens_a_second: float
    tokens_a_second_with_prefill: float
    memory_bytes: int
    share_of_bandwidth: float


@dataclass(frozen=True)
class BenchRow:
    """Results of one kernel. refused: why it was not measured"""

    kernel: str
    kl: float | None = None
    refused: str | None = None
    runs_as: str = ""
    weight_bytes_a_step: int = 0
    batches: list[BenchBatch] = field(default_factory=list)


@dataclass(frozen=True)
class BenchWinner:
    """The fastest kernel at one number of sequences, and its ratio to the next."""

    batch: int
    kernel: str
    tokens_a_second: float
    next: str | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class BenchRun:
    """The settings of a benchmark and all results."""

    checkpoint: str
    device: str
    threads: int
    prompt_tokens: int
    new_tokens: int
    bandwidth_bytes_a_second: float
    rows: list[BenchRow]
    winners: list[BenchWinner]


def bench_report(run: BenchRun) -> Report:
    columns = ("kernel", "n", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "tok/s", "MiB", "bw")
    cells = [_cells(row.kernel, batch) for row in run.rows for batch in row.batches]
    lines = [
        f"n sequences together on {run.device}, {run.threads} threads; milliseconds to the first "
        "token (TTFT) and between tokens (ITL); bw: share of the memory bandwidth that the "
        "weights alone take.",
        f"Memory bandwidth measured: {run.bandwidth_bytes_a_second / 1e9:.1f} GB/s.",
    ]
    for row in run.rows:
        if row.refused:
            lines.append(f"{row.kernel} was not measured: {row.refused}")
        elif row.kl is not None:
            lines.append(f"{row.kernel}: KL to the reference kernel {row.kl:.1e}; {row.runs_as}.")
    lines += [
        f"{w.batch} together: {w.kernel} wins with {w.tokens_a_second:.1f} tokens/s"
        + (f", {w.ratio:.2f} times {w.next}." if w.next else ".")
        for w in run.winners
    ]
    return Report(to_json(run), [Table(run.checkpoint, columns, cells)], lines)


def _cells(kernel: str, b: BenchBatch) -> tuple[str, ...]:
    first, between = b.first_token_seconds, b.between_tokens_seconds
    seconds = (first.p50, first.p99, between.p50, between.p99)
    return (
        kernel,
        str(b.batch),
        *(f"{1e3 * s:.1f}" if s < 0.1 else f"{1e3 * s:.0f}" for s in seconds),
        f"{b.tokens_a_second:.1f}",
        f"{b.memory_bytes / 2**20:.0f}",
        f"{b.share_of_bandwidth:.0%}",
    )


def winners(rows: Sequence[BenchRow]) -> list[BenchWinner]:
    """The fastest kernel at each number of sequences."""
    speeds: dict[int, list[tuple[float, str]]] = {}
    for row in rows:
        for each in row.batches:
            speeds.setdefault(each.batch, []).append((each.tokens_a_second, row.kernel))
    won = []
    for batch, measured in speeds.items():
        (speed, name), *others = sorted(measured, reverse=True)
        slower, nearest = others[0] if others else (None, None)
        won.append(BenchWinner(batch, name, speed, nearest, slower and speed / slower))
    return won


def check_plot(path: Path) -> None:
    """Check that a plot can be written, before measuring. Raises MissingExtra or RequestError."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra(
            "--plot needs the extra 'plot': pip install 'salient-awq[plot]'."
        ) from None
    if path.suffix not in PLOT_SUFFIXES:
        raise RequestError(f"{path} is not an image file. Use one of {', '.join(PLOT_SUFFIXES)}.")
    if not path.parent.is_dir():
        raise RequestError(f"The folder {path.parent} of {path.name} does not exist.")


def plot_bench(run: BenchRun, path: Path) -> None:
    """Plot throughput and inter-token latency over the concurrency, one line for each kernel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    speed, delay = figure.subplots(1, 2)
    for row in (row for row in run.rows if row.batches):
        batches = [b.batch for b in row.batches]
        speed.plot(batches, [b.tokens_a_second for b in row.batches], "o-", label=row.kernel)
        half = [1e3 * b.between_tokens_seconds.p50 for b in row.batches]
        most = [1e3 * b.between_tokens_seconds.p99 for b in row.batches]
        (line,) = delay.plot(batches, half, "o-", label=row.kernel)
        delay.fill_between(batches, half, most, color=line.get_color(), alpha=0.15)
    ticks = sorted({b.batch for row in run.rows for b in row.batches})
    for axes, title, unit in (
        (speed, "Throughput", "tokens a second, all sequences"),
        (delay, "Between tokens, p50 and up to p99", "milliseconds"),
    ):
        axes.set(title=title, xlabel="sequences together", ylabel=unit, xscale="log", ylim=0)
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    name = Path(run.checkpoint).name
    figure.suptitle(f"{name} on {run.device}, {run.prompt_tokens} prompt tokens")
    partial = path.with_name(f".{path.name}.partial{path.suffix}")
    figure.savefig(partial, dpi=130)
    partial.replace(path)
