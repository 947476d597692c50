"""Where the loss comes from: one block, or one kind of layer, quantized and the rest not."""

import re
from collections.abc import Sequence
from statistics import median

from salient.validate.attribution.result import AttributionResult, Suggestion
from salient.validate.policy.verdict import Verdict
from salient.validate.report import text_format as fmt
from salient.validate.report.axis import linear
from salient.validate.report.charts import RowChart, bar_row
from salient.validate.report.parts import HtmlTable, Section, Tile, table
from salient.validate.report.plots import column_plot

OUTLIER = 8.0  # times the median block's KL
MANY_BLOCKS = 40  # from here on they take the width of the page
LISTED = 6


def attribution_section(result: AttributionResult, _: Verdict | None) -> Section:
    """KL by block and by kind of layer, suggested fixes, drift. No policy judges it."""
    names = (re.sub(r"^.*?(\d+)$", r"block \1", fmt.line(name, 60)) for name in result.blocks)
    blocks = list(zip(names, result.blocks.values(), strict=True))
    ranked = sorted((b for b in blocks if fmt.finite(b[1]) is not None), key=lambda b: -b[1])
    outlier = (OUTLIER * median(kl for _, kl in ranked) if ranked else 0.0) or float("inf")
    total = sum(kl for _, kl in ranked)
    shares = {name: fmt.share(kl / total if total else 0.0) for name, kl in ranked[:LISTED]}
    wide, unit = len(blocks) > MANY_BLOCKS, "nats a token"
    kinds = [bar_row(fmt.line(name, 60), kl, fmt.nats) for name, kl in result.kinds.items()]
    columns = {"KL (nats)": lambda b: fmt.nats(b[1]), "of all blocks' KL": lambda b: shares[b[0]]}
    worst = [(block[0], block) for block in ranked[:LISTED]]
    return Section(
        lead=_lead(result, [name for name, kl in blocks if kl >= outlier]),
        charts=[
            column_plot("KL by block", unit, "block", blocks, fmt.nats, outlier=outlier, wide=wide),
            RowChart("KL by kind of layer", unit, kinds, fmt.tick, scale=linear, wide=wide),
        ],
        tables=[
            table("Blocks with the largest loss", "block", worst, columns, brief=tuple(columns)),
            _suggestion_table(result.suggestions),
            _drift_table(result),
        ],
        tiles=[Tile("Worst block", b, f"{shares[b]} of all blocks' KL") for b, _ in ranked[:1]],
        notes=_notes(result),
    )


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
        notes.append(result.drift.unknown)
    return [fmt.line(note, 400) for note in notes]


def _suggestion_table(suggestions: Sequence[Suggestion]) -> HtmlTable:
    def source(each: Suggestion) -> str:
        return "" if each.kl is None else "measured" if each.measured else "estimated"

    columns = {
        "KL then (nats)": lambda each: fmt.show(each.kl, fmt.nats, "not known"),
        "source": source,
        "extra size": lambda each: "" if each.kl is None else fmt.size(each.bytes),
    }
    rows = [(fmt.line(each.what, 300), each) for each in suggestions]
    return table(
        "Suggested fixes", "change", rows, columns, text_columns=("source",), brief=tuple(columns)
    )


def _drift_table(result: AttributionResult) -> HtmlTable:
    calibration = fmt.line(result.drift.calibration, 120) or "unknown texts"
    return table(
        "Texts compared with the calibration",
        "text",
        [(fmt.line(row[0], 60), row) for row in result.drift.rows("for comparison")],
        {
            "shared salient channels": lambda row: fmt.share(row[1].salient_share),
            "mean log ratio": lambda row: fmt.short(row[1].log_ratio),
            "distance": lambda row: row[2],
        },
        text_columns=("distance",),
        note=f"The checkpoint was calibrated on {calibration}. Where a text shares few of the "
        "channels that were salient then, calibrate on such texts too.",
    )
