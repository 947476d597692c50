"""Long context: what is lost as the window grows, and whether a fact is still retrieved from it."""

from collections.abc import Callable, Sequence

from salient.validate.context.result import ContextResult, RetrievalCount
from salient.validate.policy.verdict import Verdict
from salient.validate.report import text_format as fmt
from salient.validate.report.axis import linear
from salient.validate.report.charts import RowChart, dot_row
from salient.validate.report.parts import HtmlCell, HtmlTable, Section, Tile, table
from salient.validate.report.plots import Curve, Plot, line_plot
from salient.validate.report.policy_view import SIGNS, rule_on, tile

from .likelihood import COMPARED


def context_section(result: ContextResult, verdict: Verdict | None) -> Section:
    """KL by position and by length, and retrieval of facts."""
    by_length = [(f"{fmt.integer(n)} tokens", text) for n, text in result.lengths.items()]
    section = Section(lead=_lead(result), tiles=_tiles(result, verdict))
    lengths = [dot_row(n, t.sums.kl, t.intervals.get("kl"), fmt.nats) for n, t in by_length]
    unit = "nats a token, with 95% intervals, the same text in windows of each length"
    section.charts = [
        _position_plot(result),
        RowChart("KL by length", unit, lengths, fmt.tick, wide=True),
    ]
    columns = {
        "windows": lambda text: fmt.integer(text.windows),
        "tokens": lambda text: fmt.integer(text.sums.tokens),
        **COMPARED,
    }
    brief = ("KL (nats)", "same first token")
    section.tables = [table("Each length", "length", by_length, columns, brief=brief)]
    notes = list(result.notes)
    if result.retrieval:
        section.tables.append(_retrieval_table(result.retrieval.rows))
        notes += result.retrieval.notes
    else:
        notes.append(f"Retrieval could not be measured: {result.retrieval_error}")
    section.notes = [fmt.line(note, 400) for note in notes]
    return section


def _lead(result: ContextResult) -> str:
    growth, text = result.growth, f", measured on {fmt.line(result.text, 80)}"
    if growth is None or fmt.finite(growth.value) is None:
        return f"How the KL grows along the window was not measured{text}."
    interval = fmt.between(growth.interval, fmt.ratio)
    return (
        f"Along the window the KL changes by {fmt.ratio(growth.value)}"
        f"{f' ({interval})' if interval else ''}: {result.growth_summary}{text}."
    )


def _tiles(result: ContextResult, verdict: Verdict | None) -> list[Tile]:
    growth = result.growth.value if result.growth else None
    measure = ("context", "kl_growth")
    tiles = [tile(verdict, measure, "KL growth", (growth, fmt.ratio), "along the window")]
    if result.retrieval:
        rule = rule_on(verdict, "context", "retrieval_retention")
        reference, quantized = (
            f"{n}/{len(result.retrieval.probes)}" for n in result.retrieval.totals
        )
        sign = SIGNS[rule.passed] if rule else ""
        tiles.append(Tile("Retrieval", quantized, f"reference {reference}", sign))
    return tiles


def _position_plot(result: ContextResult) -> Plot:
    buckets = result.positions
    intervals = [bucket.interval for bucket in buckets]
    return line_plot(
        "KL by position",
        "nats a token, with 95% intervals",
        "position in the window, tokens",
        [(bucket.first + bucket.last) / 2 for bucket in buckets],
        [Curve("", [bucket.kl for bucket in buckets], "checkpoint", intervals)],
        (fmt.nats, fmt.tick),
        x_axis=linear([result.longest], most=result.longest),
        wide=True,
    )


def _retrieval_table(counts: Sequence[RetrievalCount]) -> HtmlTable:
    """The checkpoint's right answers at each depth and length, the reference's below them."""
    places = {(each.depth, each.length): each for each in counts}

    def column(length: int) -> Callable[[float], HtmlCell]:
        def render(depth: float) -> HtmlCell:
            each = places.get((depth, length))
            if each is None:
                return HtmlCell(fmt.MISSING)
            sign = "bad" if each.quantized < each.reference else ""
            reference = f"reference {each.reference}/{each.count}"
            return HtmlCell(f"{each.quantized}/{each.count}", reference, sign)

        return render

    return table(
        "Facts retrieved, by depth in the text and length in tokens",
        "depth",
        [(f"{depth:.0%}", depth) for depth in sorted({each.depth for each in counts})],
        {fmt.integer(n): column(n) for n in sorted({each.length for each in counts})},
    )
