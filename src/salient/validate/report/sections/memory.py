"""Bytes of both models, the parts of the checkpoint, and the peak of the run."""

from salient.validate.model_pair import ModelSummary
from salient.validate.report import text_format as fmt
from salient.validate.report.axis import linear
from salient.validate.report.charts import ChartRow, Mark, RowChart, bar_row
from salient.validate.report.parts import HtmlTable, Section, Tile, table
from salient.validate.run_environment import MemoryUse

PEAK = "peak of the run"


def memory_section(memory: MemoryUse, model: ModelSummary) -> Section:
    """A bar for each model and for the run, and the table of their sizes."""
    reference, checkpoint = fmt.size(memory.reference_bytes), fmt.size(memory.checkpoint_bytes)
    bits = model.bits_per_weight
    share = _of(memory.checkpoint_bytes, memory.reference_bytes)
    return Section(
        "memory",
        "Memory",
        f"The reference's weights take {reference}, the checkpoint's weights take {checkpoint}."
        + (f" A quantized weight takes {bits:.6g} bits." if bits else ""),
        charts=[_chart(memory)],
        tables=[_table(memory)],
        tiles=[Tile("Size", checkpoint, f"{share} of the reference")],
    )


def _of(part: int, total: int) -> str:
    return fmt.share(part / max(total, 1))


def _chart(memory: MemoryUse) -> RowChart:
    """Three bars; the checkpoint's in its parts, the largest first."""
    sizes = (memory.reference_bytes, memory.checkpoint_bytes, memory.peak_bytes or 0)
    unit, name = (2**30, "GiB") if max(sizes) >= 4 * 2**30 else (2**20, "MiB")
    parts = sorted(memory.parts.items(), key=lambda part: -part[1])
    marks, legend, start = [], [], 0.0
    for index, (part, count) in enumerate(parts):
        end, label = start + count / unit, f"{fmt.line(part, 40)} {fmt.size(count)}"
        marks.append(Mark("bar", start, end, f"part{index}", label))
        legend.append((f"part{index}", label))
        start = end

    def bar(label: str, count: int | None, colour: str) -> ChartRow:
        value = None if count is None else count / unit
        return bar_row(label, value, lambda value: fmt.size(value * unit), colour)

    rows = [
        bar("reference", memory.reference_bytes, "reference"),
        ChartRow("checkpoint", fmt.size(memory.checkpoint_bytes), marks),
        bar(PEAK, memory.peak_bytes, "peak"),
    ]
    unit_label = f"{name}; weights, and the peak of the run"
    return RowChart(
        "Both models, and this run", unit_label, rows, fmt.tick, scale=linear, legend=legend
    )


def _table(memory: MemoryUse) -> HtmlTable:
    checkpoint = memory.checkpoint_bytes
    rows = [
        ("reference", (memory.reference_bytes, "")),
        ("checkpoint", (checkpoint, "")),
        *((fmt.line(name, 60), (n, _of(n, checkpoint))) for name, n in memory.parts.items()),
        (PEAK, (memory.peak_bytes, "")),
    ]
    columns = {
        "size": lambda row: fmt.show(row[0], fmt.size),
        "of the checkpoint": lambda row: row[1],
    }
    title = "Both models, and the parts of the checkpoint"
    return table(title, "", rows, columns, brief=tuple(columns))
