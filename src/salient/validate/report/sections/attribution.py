"""Where the loss comes from: one block, or one kind of layer, quantized and the rest not."""

import re
from collections.abc import Sequence
from statistics import median

from salient.validate.attribution.result import AttributionResult, Suggestion
from salient.validate.policy.verdict import Verdict
from salient.validate.report import text_format as fmt
from salient.validate.report.axis import linear
from salient.validate.report.charts import bar_row, row_chart
from salient.validate.report.parts import HtmlTable, Section, Tile, table
from salient.validate.report.plots import column_plot

OUTLIER = 8.0  # times the median block's KL
MANY_BLOCKS = 40  # from here on they take the width of the page
LISTED = 6


def attribution_section(result: AttributionResult, _: Verdict | None) -> Section:
    """KL by block and by kind of layer, suggested fixes, drift. No policy judges it."""
    blocks = [(_block_name(block.name), block.kl) for block in result.blocks]
    ranked = sorted((b for b in blocks if fmt.finite(b[1]) is not None), key=lambda b: -b[1])
    outlier = (OUTLIER * median(kl for _, kl in ranked) if ranked else 0.0) or float("inf")
    total = sum(kl for _, kl in ranked)
    wide = len(blocks) > MANY_BLOCKS
    kinds = [bar_row(fmt.line(kind.name, 60), kind.kl, fmt.nats) for kind in result.kinds]
    unit = "nats a token"
    return Section(
        "attribution",
        "Where the loss comes from",
        _lead(result, [name for name, kl in blocks if kl >= outlier]),
        charts=[
            column_plot("KL by block", unit, "block", blocks, fmt.nats, outlier=outlier, wide=wide),
            row_chart("KL by kind of layer", unit, kinds, fmt.tick, scale=linear, wide=wide),
        ],
        tables=[
            _block_table(ranked[:LISTED], total),
            _suggestion_table(result.suggestions),
            _drift_table(result),
        ],
        tiles=[
            Tile("Worst block", name, f"{_share(kl, total)} of all blocks' KL")
            for name, kl in ranked[:1]
        ],
        notes=_notes(result),
    )


def _block_name(name: str) -> str:
    return re.sub(r"^.*?(\d+)$", r"block \1", fmt.line(name, 60))


def _share(kl: float, total: float) -> str:
    return fmt.share(kl / total if total else 0.0)


def _lead(result: AttributionResult, outliers: Sequence[str]) -> str:
    lead = (
        f"On {result.windows} windows of {result.length} tokens the checkpoint has a KL of "
        f"{fmt.show(result.whole, fmt.nats)} nats a token; each figure here is the KL with that "
        "part alone in 4 bits."
    )
    if outliers:
        names = ", ".join(outliers[:4]) + f" and {len(outliers) - 4} more" * (len(outliers) > 4)
        verb = "stands" if len(outliers) == 1 else "stand"
        names = names[0].upper() + names[1:]
        return f"{lead} {names} {verb} out: {OUTLIER:g} times the median block or more."
    return f"{lead} No block stands out." if len(result.blocks) > 2 else lead


def _notes(result: AttributionResult) -> list[str]:
    notes = list(result.notes)
    if result.outside:
        kl = fmt.show(result.outside, fmt.nats)
        notes.insert(0, f"The embedding, the last norm and the head alone have a KL of {kl}.")
    if result.drift.yardstick is None:
        reason = result.drift.reason
        notes.append(f"Whether the texts are like the calibration is not known: {reason}.")
    return [fmt.line(note, 400) for note in notes]


def _block_table(worst: Sequence[tuple[str, float]], total: float) -> HtmlTable:
    return table(
        "Blocks with the largest loss",
        "block",
        worst,
        {"KL (nats)": fmt.nats, "of all blocks' KL": lambda kl: _share(kl, total)},
        brief=("KL (nats)", "of all blocks' KL"),
    )


def _suggestion_table(suggestions: Sequence[Suggestion]) -> HtmlTable:
    def source(each: Suggestion) -> str:
        return "" if each.kl is None else "measured" if each.measured else "estimated"

    return table(
        "Suggested fixes",
        "change",
        [(fmt.line(each.what, 300), each) for each in suggestions],
        {
            "KL then (nats)": lambda each: fmt.show(each.kl, fmt.nats, "not known"),
            "source": source,
            "extra size": lambda each: "" if each.kl is None else fmt.size(each.bytes),
        },
        text_columns=("source",),
        brief=("KL then (nats)", "source", "extra size"),
    )


def _drift_table(result: AttributionResult) -> HtmlTable:
    drift = result.drift
    calibration = fmt.line(drift.calibration, 120) or "unknown texts"
    rows = [(fmt.line(name, 60), (each, drift.label(name))) for name, each in drift.texts.items()]
    if drift.yardstick:
        rows.insert(0, ("two halves of the calibration", (drift.yardstick, "for comparison")))
    return table(
        "Texts compared with the calibration",
        "text",
        rows,
        {
            "shared salient channels": lambda row: fmt.share(row[0].salient_share),
            "mean log ratio": lambda row: fmt.short(row[0].log_ratio),
            "distance": lambda row: row[1],
        },
        text_columns=("distance",),
        note=f"The checkpoint was calibrated on {calibration}. Where a text shares few of the "
        "channels that were salient then, calibrate on such texts too.",
    )
