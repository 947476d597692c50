"""Results of `bench`: records, the report, the plot."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from salient.core.errors import MissingExtra, RequestError
from salient.core.report import Report, Table

PERCENTILES = (50, 90, 99)
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass
class BenchMeasurement:
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
class BenchRow:
    """Results of one kernel. refused: why it was not measured"""

    name: str
    kl: float | None = None
    refused: str = ""
    weights: int = 0
    how: str = ""
    measured: list[BenchMeasurement] = field(default_factory=list)


def percentile(values: Sequence[float], percent: float) -> float:
    """The interpolated percentile."""
    return float(torch.tensor(values, dtype=torch.float64).quantile(percent / 100))


def bench_report(settings: dict[str, Any], rows: list[BenchRow]) -> Report:
    """The report of `rows`, measured with `settings`."""
    bandwidth, device = settings["bandwidth_bytes_a_second"], settings["device"]
    data: dict[str, Any] = settings | {
        "rows": [_plain(row, bandwidth) for row in rows],
        "winners": winners(rows),
    }
    columns = ("kernel", "n", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "tok/s", "MiB", "bw")
    table = [cells for row in data["rows"] for cells in _cells(row)]
    lines = [
        f"n sequences together on {device}, {settings['threads']} threads; milliseconds to the "
        "first token (TTFT) and between tokens (ITL); bw: share of the memory bandwidth that the "
        "weights alone take.",
        f"Memory bandwidth measured: {bandwidth / 1e9:.1f} GB/s.",
    ]
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
    return Report(data, [Table(str(settings["checkpoint"]), columns, table)], lines)


def _plain(row: BenchRow, bandwidth: float) -> dict[str, Any]:
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
    def milliseconds(seconds: dict[str, float]) -> list[str]:
        values = (seconds["p50"], seconds["p99"])
        return [f"{1e3 * v:.1f}" if v < 0.1 else f"{1e3 * v:.0f}" for v in values]

    return [
        (
            row["kernel"],
            str(b["batch"]),
            *milliseconds(b["first_token_seconds"]),
            *milliseconds(b["between_tokens_seconds"]),
            f"{b['tokens_a_second']:.1f}",
            f"{b['memory_bytes'] / 2**20:.0f}",
            f"{b['share_of_bandwidth']:.0%}",
        )
        for b in row["batches"]
    ]


def winners(rows: list[BenchRow]) -> list[dict[str, Any]]:
    """The fastest kernel for each batch size, and its ratio to the next."""
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


def plot_bench(data: dict[str, Any], path: Path) -> None:
    """Plot throughput and inter-token latency over the concurrency, one line for each kernel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    speed, delay = figure.subplots(1, 2)
    for row in data["rows"]:
        batches = [b["batch"] for b in row["batches"]]
        if not batches:
            continue
        measured = row["batches"]
        speed.plot(batches, [b["tokens_a_second"] for b in measured], "o-", label=row["kernel"])
        half, most = (
            [1e3 * b["between_tokens_seconds"][name] for b in measured] for name in ("p50", "p99")
        )
        (line,) = delay.plot(batches, half, "o-", label=row["kernel"])
        delay.fill_between(batches, half, most, color=line.get_color(), alpha=0.15)
    for axes, title, unit in (
        (speed, "Throughput", "tokens a second, all sequences"),
        (delay, "Between tokens, p50 and up to p99", "milliseconds"),
    ):
        axes.set(title=title, xlabel="sequences together", ylabel=unit, xscale="log", ylim=0)
        ticks = sorted({b["batch"] for row in data["rows"] for b in row["batches"]})
        axes.set_xticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    name, tokens = Path(data["checkpoint"]).name, data["prompt_tokens"]
    figure.suptitle(f"{name} on {data['device']}, {tokens} prompt tokens")
    partial = path.with_name(f".{path.name}.partial{path.suffix}")
    figure.savefig(partial, dpi=130)
    partial.replace(path)
