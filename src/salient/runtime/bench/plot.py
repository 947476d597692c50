"""The figures of `bench` as a picture."""

from pathlib import Path
from typing import Any

from salient.core.errors import MissingExtra, RequestError

SUFFIXES = (".png", ".svg", ".pdf")


def check_plot(path: Path) -> None:
    """Raise MissingExtra or RequestError now, not after minutes of measuring."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra(
            "--plot needs the extra 'plot': pip install 'salient-awq[plot]'."
        ) from None
    if path.suffix not in SUFFIXES:
        raise RequestError(f"{path} is no picture. Give a file ending in {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise RequestError(f"There is no folder {path.parent} to write {path.name} to.")


def plot_bench(data: dict[str, Any], path: Path) -> None:
    """Tokens a second and time between tokens over the batch size, a line a kernel."""
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
