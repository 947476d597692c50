"""How far the checkpoint's predictions of texts are from the reference's."""

from collections.abc import Callable, Mapping

from salient.core.intervals import Interval
from salient.validate.likelihood.protocols import PublishedComparison
from salient.validate.likelihood.result import LikelihoodResult, TextComparison
from salient.validate.policy.verdict import Verdict
from salient.validate.report import text_format as fmt
from salient.validate.report.charts import RowChart, dot_row
from salient.validate.report.parts import HtmlCell, HtmlTable, Section, Tile, cell, table
from salient.validate.report.policy_view import levels, rule_on, tile

ALL_TEXTS = "all texts"
TILES = (
    ("kl", "KL", fmt.nats, "nats a token"),
    ("top1", "Same first token", fmt.share, "as the reference"),
    ("perplexity_increase", "Perplexity", fmt.change, "over the reference"),
)


def likelihood_section(result: LikelihoodResult, verdict: Verdict | None) -> Section:
    """KL, top-1 agreement and perplexity of each text."""
    texts = {fmt.line(name, 60): text for name, text in result.texts.items()}
    if len(texts) > 1:
        texts[ALL_TEXTS] = result.total
    published = [(fmt.line(row.model, 40), row) for row in result.published]
    return Section(
        lead=_lead(result),
        charts=[_kl_chart(texts, verdict), _increase_chart(texts, published, verdict)],
        tables=[_text_table(texts), _published_table(published)],
        tiles=_tiles(result, verdict),
        notes=[f"Protocol: {result.protocol.summary}."],
    )


def _tiles(result: LikelihoodResult, verdict: Verdict | None) -> list[Tile]:
    tiles = []
    for measure, label, form, remark in TILES:
        if len(result.texts) > 1 and rule_on(verdict, "likelihood", measure):
            remark += ", worst text"
        figure = getattr(result.total.sums, measure), form
        tiles.append(tile(verdict, ("likelihood", measure), label, figure, remark))
    return tiles


def _lead(result: LikelihoodResult) -> str:
    sums, texts = result.total.sums, len(result.texts)
    lead = f"{fmt.integer(sums.tokens)} tokens of {f'{texts} texts' if texts != 1 else 'one text'}."
    if fmt.finite(sums.kl) is None:
        return f"{lead} The KL of the checkpoint's predictions is not a number."
    return (
        f"{lead} The checkpoint's predictions are {fmt.nats(sums.kl)} nats a token from the "
        f"reference's. Both put the same token first {fmt.share(sums.top1)} of the time."
    )


def _figure(text: TextComparison, measure: str) -> tuple[float, Interval | None]:
    return getattr(text.sums, measure), text.intervals.get(measure)


def figure_cell(measure: str, form: fmt.Form) -> Callable[[TextComparison], HtmlCell]:
    """The cell of a measure in the row of a text, with its interval."""

    def render(text: TextComparison) -> HtmlCell:
        value, interval = _figure(text, measure)
        return cell(value, form, interval)

    return render


def _kl_chart(texts: Mapping[str, TextComparison], verdict: Verdict | None) -> RowChart:
    rows = [
        dot_row(name, *_figure(text, "kl"), fmt.nats, strong=name == ALL_TEXTS)
        for name, text in texts.items()
    ]
    unit = "nats a token, with 95% intervals; 0 is identical"
    bound = levels(verdict, "likelihood", "kl", fmt.tick)
    return RowChart("KL by text", unit, rows, fmt.tick, levels=bound)


def _increase_chart(
    texts: Mapping[str, TextComparison],
    published: list[tuple[str, PublishedComparison]],
    verdict: Verdict | None,
) -> RowChart:
    measure, form = "perplexity_increase", fmt.change
    rows = [
        dot_row(name, *_figure(text, measure), form, strong=name == ALL_TEXTS)
        for name, text in texts.items()
    ]
    rows += [
        dot_row(name, _increase(row), None, form, kind="ring", colour="published")
        for name, row in published
    ]
    unit, bound = "against the reference, with 95% intervals", fmt.share_tick
    legend = [("checkpoint", "this checkpoint"), ("published", "published by others")]
    return RowChart(
        "Perplexity increase",
        unit,
        rows,
        bound,
        levels=levels(verdict, "likelihood", measure, bound),
        legend=legend * bool(published),
    )


COMPARED = {
    "KL (nats)": figure_cell("kl", fmt.nats),
    "same first token": figure_cell("top1", fmt.share),
    "perplexity, reference": figure_cell("perplexity_reference", fmt.perplexity),
    "checkpoint": figure_cell("perplexity_quantized", fmt.perplexity),
}


def _text_table(texts: Mapping[str, TextComparison]) -> HtmlTable:
    columns = {
        "tokens": lambda text: fmt.integer(text.sums.tokens),
        "windows": lambda text: fmt.integer(text.windows),
        **COMPARED,
        "increase": figure_cell("perplexity_increase", fmt.change),
    }
    note = (
        "Below a figure its 95% interval, by the bootstrap over windows, where there are enough of "
        "them."
    )
    brief = ("tokens", "KL (nats)", "same first token", "increase")
    return table("Each text", "text", texts.items(), columns, note=note, brief=brief)


def _increase(row: PublishedComparison) -> float:
    return row.quantized / row.reference - 1


def _published_table(published: list[tuple[str, PublishedComparison]]) -> HtmlTable:
    columns = {
        "text": lambda row: row.text,
        "protocol": lambda row: row.protocol,
        "scheme": lambda row: row.scheme,
        "reference": lambda row: fmt.perplexity(row.reference),
        "quantized": lambda row: fmt.perplexity(row.quantized),
        "increase": lambda row: fmt.change(_increase(row)),
        "reference, here": lambda row: fmt.show(row.measured_reference, fmt.perplexity),
        "checkpoint, here": lambda row: fmt.show(row.measured_quantized, fmt.perplexity),
        "source": lambda row: row.source,
    }
    title, texts = "Published perplexities for comparison", ("text", "protocol", "scheme", "source")
    note = "Perplexities are comparable only on one text by one protocol."
    return table(title, "model", published, columns, text_columns=texts, note=note)
