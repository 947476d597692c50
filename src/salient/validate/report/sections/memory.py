"""Bytes of both models, what the checkpoint's are made of, and the most that the run took."""

from salient.validate.report.charts.axis import Axis, linear
from salient.validate.report.charts.rows import ChartRow, Mark, RowChart, bar
from salient.validate.report.figures import MISSING, UNMEASURED, number, share, show, size, tick
from salient.validate.report.parts import HtmlTable, Section, Tile, table
from salient.validate.report.reading import Data, part, rows
from salient.validate.report.text_format import line

SHADES = 6  # of parts, in the style sheet
UNIT = 2**20


def memory(found: Data, data: Data) -> Section:
    """The section `memory`."""
    before, after = (number(found.get(f"{side}_bytes")) for side in ("reference", "checkpoint"))
    section = Section("memory", "Memory", _lead(before, after, data))
    section.charts = [_chart(found)]
    section.tables = [_table(found, after)]
    section.brief = [_brief(found)]
    saved = f"{share(after / before)} of the reference" if before and after is not None else ""
    section.tiles = [Tile("Size", show(after, size, UNMEASURED), saved)]
    return section


def _lead(before: float | None, after: float | None, data: Data) -> str:
    bits = number(part(data, "model").get("bits_per_weight"))
    sizes = [
        f"the {name}'s weights take {show(count, size)}"
        for name, count in (("reference", before), ("checkpoint", after))
        if count is not None
    ]
    lead = ", ".join(sizes) or "the size of neither model is known"
    said = f" A quantized weight takes {bits:.6g} bits." if bits else ""
    return f"{lead[0].upper()}{lead[1:]}.{said}"


def _chart(found: Data) -> RowChart:
    sides = [(k, number(found.get(f"{k}_bytes"))) for k in ("reference", "checkpoint", "peak")]
    top = max((v for _, v in sides if v is not None), default=0.0)
    unit = 2**30 if top >= 4 * 2**30 else UNIT
    axis = linear([v / unit for _, v in sides if v is not None])
    parts, legend = _parts(found, axis, unit)
    labels = {"reference": "reference", "checkpoint": "checkpoint", "peak": "most of this run"}
    drawn = []
    for side, value in sides:
        words = f"{labels[side]}: {show(value, size, UNMEASURED)}"
        marks = [] if value is None else [bar(axis, 0.0, value / unit, side, words)]
        if side == "checkpoint" and marks and parts:
            marks = parts
        drawn.append(ChartRow(labels[side], show(value, size, UNMEASURED), marks, words))
    words = f"{'GiB' if unit == 2**30 else 'MiB'}; weights, and the most that the run took"
    return RowChart("Both models, and this run", words, drawn, axis.ticks(tick), legend)


def _parts(found: Data, axis: Axis, unit: float) -> tuple[list[Mark], list[tuple[str, str]]]:
    """The checkpoint's bar in its parts, the largest first, and what each shade is."""
    known = [(line(row.get("name"), 40), number(row.get("bytes"))) for row in rows(found, "parts")]
    sized = sorted(((b, name) for name, b in known if b is not None and b > 0), reverse=True)
    if len(sized) > SHADES:
        rest = sum(b for b, _ in sized[SHADES - 1 :])
        sized = [*sized[: SHADES - 1], (rest, "the rest")]
    marks, legend, start = [], [], 0.0
    for index, (count, name) in enumerate(sized):
        words = f"{name}: {size(count)}"
        marks.append(bar(axis, start / unit, (start + count) / unit, f"part{index}", words))
        legend.append((f"part{index}", f"{name} {size(count)}"))
        start += count
    return marks, legend


def _table(found: Data, after: float | None) -> HtmlTable:
    return table(
        "Parts of the checkpoint",
        ("part", "size", "of the checkpoint"),
        [
            (
                line(row.get("name"), 60),
                show(row.get("bytes"), size),
                _of(number(row.get("bytes")), after),
            )
            for row in rows(found, "parts")
        ],
    )


def _of(count: float | None, total: float | None) -> str:
    return share(count / total) if count is not None and total else MISSING


def _brief(found: Data) -> HtmlTable:
    return table(
        "Memory",
        ("", "size"),
        [
            (said, show(found.get(key), size))
            for key, said in (
                ("reference_bytes", "reference"),
                ("checkpoint_bytes", "checkpoint"),
                ("peak_bytes", "most of this run"),
            )
        ],
    )
