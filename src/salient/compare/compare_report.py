"""The table of a comparison, and its page: the table and the plot of KL over bits."""

import math
from html import escape

from salient.core.printable import printable
from salient.core.records import to_json
from salient.core.report import Report, Table, duration, mebibytes

from .contestant_results import Comparison, ContestantResult

COLUMNS = ("contestant", "bits/weight", "KL (nats)", "top-1", "PPL ratio", "size", "made in")
WIDTH, HEIGHT, EDGE = 640, 360, 60
STYLE = "body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td,th{padding:.3em "
STYLE += ".8em;text-align:right;border-bottom:1px solid #ddd}td:first-child{text-align:left}"


def comparison_report(comparison: Comparison) -> Report:
    """The report: the contestants by KL; those that could not be made, with the reason."""
    table = Table(_title(comparison), COLUMNS, _rows(comparison), optional=("made in", "size"))
    lines = [f"{each.name} was not measured: {each.reason}" for each in _failed(comparison)]
    lines.append("* on the Pareto front: no other has fewer bits and a lower KL.")
    return Report(to_json(comparison), [table], lines)


def page(comparison: Comparison) -> str:
    """One page without scripts and requests."""
    head = "".join(f"<th>{escape(column)}</th>" for column in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(printable(cell))}</td>" for cell in row) + "</tr>"
        for row in _rows(comparison)
    )
    failed = "".join(
        f"<p>{escape(printable(each.name))} was not measured: {escape(printable(each.reason))}</p>"
        for each in _failed(comparison)
    )
    title = escape(printable(_title(comparison)))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1><table><tr>{head}</tr>{body}</table>"
        f"<p>* on the Pareto front: no other has fewer bits and a lower KL.</p>"
        f"{_plot(_measured(comparison))}{failed}</html>\n"
    )


def _title(comparison: Comparison) -> str:
    return (
        f"{comparison.model}: {comparison.positions:,} positions of {comparison.panel}, KL of the "
        "16-bit model and each contestant"
    )


def _measured(comparison: Comparison) -> list[ContestantResult]:
    def kl(each: ContestantResult) -> float:
        return each.figures.kl.value if each.figures else math.inf

    return sorted((each for each in comparison.contestants if each.figures), key=kl)


def _failed(comparison: Comparison) -> list[ContestantResult]:
    return [each for each in comparison.contestants if each.figures is None]


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for each in _measured(comparison):
        figures = each.figures
        assert figures is not None
        name = each.label if each.label.startswith(each.name) else f"{each.name}: {each.label}"
        seconds = "" if each.seconds is None else duration(each.seconds)
        rows.append(
            (
                name + " *" * each.front,
                f"{each.bits_per_weight:.2f}",
                f"{figures.kl.value:.5f}",
                f"{figures.top1.value:.2%}",
                f"{figures.perplexity_ratio.value:.4f}",
                mebibytes(each.bytes or 0),
                seconds,
            )
        )
    return rows


def _plot(measured: list[ContestantResult]) -> str:
    """KL (logarithmic) over bits a weight, the front as a line: inline SVG."""
    points = [
        (each.bits_per_weight or 0.0, math.log10(max(each.figures.kl.value, 1e-12)), each)
        for each in measured
        if each.figures
    ]
    low, high = min(b for b, _, _ in points) - 0.25, max(b for b, _, _ in points) + 0.25
    bottom, top = min(k for _, k, _ in points) - 0.1, max(k for _, k, _ in points) + 0.1

    def place(bits: float, kl: float) -> tuple[float, float]:
        across = EDGE + (bits - low) / (high - low) * (WIDTH - 2 * EDGE)
        return round(across, 1), round(EDGE + (top - kl) / (top - bottom) * (HEIGHT - 2 * EDGE), 1)

    front = sorted((b, k) for b, k, each in points if each.front)
    line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in front))
    dots = ""
    for bits, kl, each in points:
        x, y = place(bits, kl)
        label = escape(printable(each.name.rstrip("/").rpartition("/")[2]))
        colour = "#0a6" if each.front else "#888"
        dots += f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}"/>'
        dots += f'<text x="{x + 8}" y="{y + 4}" font-size="12">{label}</text>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="KL over bits a weight">'
        f'<polyline points="{line}" fill="none" stroke="#0a6"/>{dots}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 15}" font-size="12">bits a weight, {low + 0.25:.2f} '
        f'to {high - 0.25:.2f}</text><text x="5" y="20" font-size="12">KL (nats), logarithmic, '
        f"{10 ** (bottom + 0.1):.2g} to {10 ** (top - 0.1):.2g}</text></svg>"
    )
