"""The long-context stage in the terminal."""

from salient.core.intervals import FEWEST
from salient.core.report import Table
from salient.validate.likelihood.render import bracketed, comparison_cells

from .haystack import DEPTHS
from .result import ContextResult, RetrievalResult

COLUMNS = ("length", "windows", "KL (nats)", "top-1", "perplexity", "of the reference")


def render_context(result: ContextResult) -> tuple[list[Table], list[str]]:
    """A row for each length, and what was found of the hidden facts."""
    rows = [
        (str(length), str(each.windows), *comparison_cells(each))
        for length, each in result.lengths.items()
    ]
    tables = [Table("Long context: the same text in windows of each length", COLUMNS, rows)]
    lines = _length_lines(result)
    if result.retrieval is None:
        lines.append(f"Hidden facts could not be searched for: {result.retrieval_error}")
    else:
        tables.append(_retrieval_table(result.retrieval))
        lines += result.retrieval.notes
    return tables, lines


def _length_lines(result: ContextResult) -> list[str]:
    """Growth, the first positions, and what is missing."""
    lines = ["Both models in float32. In brackets 95 % intervals, by the bootstrap over windows."]
    if (growth := result.growth) is not None:
        drawn = f"; interval over {growth.drawn}" if growth.interval else ""
        lines.append(
            f"KL growth {growth.value:.3f}{bracketed(growth.interval, '.3f')}: "
            f"{result.growth_summary}{drawn}."
        )
    if len(result.positions) > 1:
        first, *rest = result.positions
        later = sum(bucket.kl for bucket in rest) / len(rest)
        lines.append(
            f"KL of positions {first.first} to {first.last}: {first.kl:.4f}, of the later ones "
            f"{later:.4f}."
        )
    few = [f"{c.windows} of {n}" for n, c in result.lengths.items() if c.windows < FEWEST]
    if few:
        lines.append(f"Windows too few for an interval ({FEWEST}): {', '.join(few)} tokens.")
    return lines + [f"{note[0].upper()}{note[1:]}." for note in result.notes]


def _retrieval_table(retrieval: RetrievalResult) -> Table:
    """A row for each length; right answers at each depth, checkpoint / reference."""
    counts = retrieval.rows
    depths = [depth for depth in DEPTHS if any(row.depth == depth for row in counts)]
    rows = []
    for length in sorted({row.length for row in counts}):
        by_depth = {row.depth: row for row in counts if row.length == length}
        cells = (
            f"{by_depth[d].quantized}/{by_depth[d].reference}" if d in by_depth else ""
            for d in depths
        )
        sums = (
            sum(getattr(row, name) for row in by_depth.values())
            for name in ("count", "reference", "quantized")
        )
        rows.append((str(length), *map(str, sums), *cells))
    columns = ("length", "facts", "reference", "checkpoint", *(f"at {d:.0%}" for d in depths))
    return Table("Facts found again, by length and depth (checkpoint/reference)", columns, rows)
