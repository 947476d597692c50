"""The attribution stage in the terminal."""

from collections.abc import Sequence

from salient.core.report import Table, mebibytes

from .result import AttributionResult, PartDamage, Suggestion

SHOWN = 5  # blocks in the table


def render_attribution(result: AttributionResult) -> tuple[list[Table], list[str]]:
    """The worst blocks, the kinds, suggested fixes, and the texts against the calibration."""
    worst = sorted(result.blocks, key=lambda block: -block.kl)[:SHOWN]
    of_blocks, of_kinds = (sum(p.kl for p in parts) for parts in (result.blocks, result.kinds))
    columns = ("KL alone", "of the sum")
    tables = [
        Table(
            "Where the damage sits: the worst blocks",
            ("block", *columns),
            _part_rows(worst, of_blocks),
        ),
        Table("The kinds of linears", ("kind", *columns), _part_rows(result.kinds, of_kinds)),
        Table(
            "Suggested fixes",
            ("change", "KL", "how known", "larger by"),
            [
                ("none", f"{result.whole:.4f}", "measured", ""),
                *map(_suggestion_row, result.suggestions),
            ],
            text_columns=("how known",),
        ),
        *_drift_tables(result),
    ]
    lines = [
        f"On {result.windows} x {result.length} tokens the checkpoint has a KL of "
        f"{result.whole:.4f} nats; its blocks, each alone in the reference, add up to "
        f"{of_blocks:.4f}, its kinds to {of_kinds:.4f}.",
        *result.notes,
    ]
    if result.drift.yardstick is None:
        lines.append(
            f"Whether the texts are like the calibration is not known: {result.drift.reason}."
        )
    return [table for table in tables if table.rows], lines


def _part_rows(parts: Sequence[PartDamage], total: float) -> list[tuple[str, ...]]:
    return [(p.name, f"{p.kl:.5f}", f"{p.kl / max(total, 1e-12):.0%}") for p in parts]


def _suggestion_row(suggestion: Suggestion) -> tuple[str, ...]:
    if suggestion.kl is None:
        return suggestion.what, "?", "", ""
    source = "measured" if suggestion.measured else "estimated"
    return suggestion.what, f"{suggestion.kl:.4f}", source, mebibytes(suggestion.bytes)


def _drift_tables(result: AttributionResult) -> list[Table]:
    drift = result.drift
    if drift.yardstick is None:
        return []
    each = [("two halves of the calibration", drift.yardstick, "")]
    each += [(name, figures, drift.label(name)) for name, figures in drift.texts.items()]
    rows = [
        (name, f"{figures.salient_share:.0%}", f"{figures.log_ratio:.3f}", label)
        for name, figures, label in each
    ]
    title = f"How like the calibration ({drift.calibration}) the texts are"
    columns = ("text", "salient channels kept", "log ratio", "it is")
    return [Table(title, columns, rows, text_columns=("it is",))]
