"""How far the checkpoint's predictions of texts are from the reference's."""

from salient.validate.report.charts.rows import DotWhisker, dots
from salient.validate.report.figures import (
    Form,
    change,
    nats,
    number,
    perplexity,
    share,
    share_tick,
    show,
    tick,
    whole,
)
from salient.validate.report.levels import asked
from salient.validate.report.parts import HtmlCell, HtmlTable, Section, Tile, cell, table, tile
from salient.validate.report.reading import Data, named, part, rows, ruled, words
from salient.validate.report.text_format import line

ALL = "all texts"
_PUBLISHED = ("model", "text", "protocol", "scheme")
_SIDES = ("reference", "quantized")


def likelihood(found: Data, data: Data) -> Section:
    """The section `likelihood`."""
    texts = [(line(name, 60), figures) for name, figures in named(found, "texts")]
    total = part(found, "all") or (texts[0][1] if len(texts) == 1 else {})
    everything = [*texts, (ALL, total)] if len(texts) != 1 and total else texts
    section = Section("likelihood", "Likelihood", _lead(total, len(texts)))
    section.charts = [_kl(everything, data), _increase(everything, found, data)]
    section.tables = [_table(everything)]
    section.brief = [_brief(everything)]
    if rows(found, "published"):
        section.tables.append(_published(found))
    if words(found, "protocol"):
        section.notes.append(f"Protocol: {line(words(found, 'protocol'), 200)}.")
    section.tiles = _tiles(total, len(texts), data)
    return section


def _tiles(total: Data, texts: int, data: Data) -> list[Tile]:
    each = (
        ("kl", "KL", nats, "nats a token"),
        ("top1", "Same first token", share, "as the reference"),
        ("perplexity_increase", "Perplexity", change, "over the reference"),
    )
    return [
        tile(
            data,
            ("likelihood", key),
            label,
            (total.get(key), form),
            f"{remark}, worst text" if texts > 1 and ruled(data, "likelihood", key) else remark,
        )
        for key, label, form, remark in each
    ]


def _lead(total: Data, texts: int) -> str:
    tokens = show(total.get("tokens"), whole, "An unknown number of")
    said = [f"{tokens} tokens of {f'{texts} texts' if texts != 1 else 'one text'}."]
    kl, top1 = (show(total.get(key), form, "") for key, form in (("kl", nats), ("top1", share)))
    if kl:
        said.append(f"The checkpoint's predictions are {kl} nats a token from the reference's.")
    else:
        said.append("How far the checkpoint's predictions are from the reference's: not measured.")
    if top1:
        said.append(f"Both put the same token first {top1} of the time.")
    return " ".join(said)


def _sure(figures: Data, key: str) -> object:
    return part(figures, "intervals").get(key)


def _kl(texts: list[tuple[str, Data]], data: Data):
    measured = [
        DotWhisker(name, number(f.get("kl")), _sure(f, "kl"), strong=name == ALL)
        for name, f in texts
    ]
    return dots(
        "KL by text",
        "nats a token, with 95% intervals; 0 is identical",
        measured,
        (nats, tick),
        asked(data, "likelihood", "kl", tick),
    )


def _increase(texts: list[tuple[str, Data]], found: Data, data: Data):
    measured = [
        DotWhisker(
            name,
            number(f.get("perplexity_increase")),
            _sure(f, "perplexity_increase"),
            strong=name == ALL,
        )
        for name, f in texts
    ]
    others = [_published_increase(row) for row in rows(found, "published")]
    legend = [("checkpoint", "this checkpoint"), ("published", "published by others")]
    return dots(
        "Perplexity increase",
        "against the reference, with 95% intervals",
        [*measured, *others],
        (change, share_tick),
        asked(data, "likelihood", "perplexity_increase", share_tick),
        legend=legend if others else [],
    )


def _published_increase(row: Data) -> DotWhisker:
    before, after = number(row.get("reference")), number(row.get("quantized"))
    increase = after / before - 1 if before and after is not None else None
    return DotWhisker(line(row.get("model"), 40), increase, None, "published")


def _cell(figures: Data, key: str, form: Form) -> HtmlCell:
    return cell(figures.get(key), form, _sure(figures, key))


def _table(texts: list[tuple[str, Data]]) -> HtmlTable:
    return table(
        "Each text",
        (
            "text",
            "tokens",
            "windows",
            "KL (nats)",
            "same first token",
            "perplexity, reference",
            "checkpoint",
            "increase",
        ),
        [
            (
                name,
                show(f.get("tokens"), whole),
                show(f.get("windows"), whole),
                _cell(f, "kl", nats),
                _cell(f, "top1", share),
                _cell(f, "perplexity_reference", perplexity),
                _cell(f, "perplexity_quantized", perplexity),
                _cell(f, "perplexity_increase", change),
            )
            for name, f in texts
        ],
        note="Below a figure its 95% interval, by the bootstrap over windows, where there are "
        "enough of them.",
    )


def _brief(texts: list[tuple[str, Data]]) -> HtmlTable:
    return table(
        "Likelihood",
        ("text", "tokens", "KL (nats)", "same first token", "perplexity"),
        [
            (
                name,
                show(f.get("tokens"), whole),
                _cell(f, "kl", nats),
                _cell(f, "top1", share),
                _cell(f, "perplexity_increase", change),
            )
            for name, f in texts
        ],
    )


def _published(found: Data) -> HtmlTable:
    published = rows(found, "published")
    here = any(number(row.get("measured_reference")) is not None for row in published)
    own = ("reference, here", "checkpoint, here") if here else ()
    return table(
        "Published perplexities to hold these against",
        (*_PUBLISHED, "reference", "quantized", "increase", *own, "source"),
        [
            (
                *(line(row.get(key), 60) for key in _PUBLISHED),
                cell(row.get("reference"), perplexity),
                cell(row.get("quantized"), perplexity),
                cell(_published_increase(row).value, change),
                *(cell(row.get(f"measured_{side}"), perplexity) for side in _SIDES if here),
                line(row.get("source"), 120),
            )
            for row in published
        ],
        words=(*_PUBLISHED, "source"),
        note="Perplexities can be held against each other only of one text by one protocol.",
    )
