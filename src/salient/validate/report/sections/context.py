"""Long context: what is lost as the window grows, and whether a fact is still found in it."""

from itertools import pairwise

from salient.validate.report.charts.axis import tight
from salient.validate.report.charts.grid import grid
from salient.validate.report.charts.lines import Curve, LineChart, lines
from salient.validate.report.charts.rows import DotWhisker, RowChart, dots
from salient.validate.report.figures import (
    UNMEASURED,
    between,
    nats,
    number,
    perplexity,
    ratio,
    share,
    show,
    tick,
    whole,
)
from salient.validate.report.parts import HtmlTable, Section, Tile, cell, table, tile
from salient.validate.report.reading import Data, error, part, rows, sign, texts, words
from salient.validate.report.text_format import line

MOST_POINTS = 400


def context(found: Data, data: Data) -> Section:
    """The section `context`."""
    growth, retrieval = part(found, "growth"), part(found, "retrieval")
    section = Section("context", "Long context", _lead(found, growth))
    if rows(found, "positions"):
        section.charts.append(_positions(found))
    if rows(found, "lengths"):
        section.charts.append(_lengths(found))
        section.tables.append(_table(found))
        section.brief.append(_brief(found))
    if rows(retrieval, "rows"):
        section.charts.append(
            grid(
                "Retrieval",
                "facts found again, by depth in the text and length in tokens",
                "depth",
                rows(retrieval, "rows"),
                "length",
                "depth",
            )
        )
    section.notes = [line(note, 400) for note in texts(retrieval, "notes")]
    if error(found, "retrieval"):
        section.notes.append(
            f"Retrieval could not be measured: {line(error(found, 'retrieval'), 400)}"
        )
    section.tiles = _tiles(growth, retrieval, data)
    return section


def _lead(found: Data, growth: Data) -> str:
    value = show(growth.get("value"), ratio, "")
    said = line(words(growth, "words"), 200) or "the last quarter's KL over the first quarter's"
    sure = between(growth.get("interval"), ratio)
    sure = f" ({sure})" if sure else ""
    of = line(words(found, "text"), 80)
    on = f", measured on {of}" if of else ""
    if not value:
        return f"How the KL grows along the window was not measured{on}."
    return f"Along the window the KL changes by {value}{sure}: {said}{on}."


def _tiles(growth: Data, retrieval: Data, data: Data) -> list[Tile]:
    tiles = [
        tile(
            data,
            ("context", "kl_growth"),
            "KL growth",
            (growth.get("value"), ratio),
            "along the window",
        )
    ]
    count, after, before = (number(retrieval.get(k)) for k in ("count", "quantized", "reference"))
    if count:
        tiles.append(
            Tile(
                "Retrieval",
                f"{show(after, whole, '?')}/{whole(count)}",
                f"reference {show(before, whole, UNMEASURED)}/{whole(count)}",
                sign(data, "context", "retrieval_retention"),
            )
        )
    return tiles


def _positions(found: Data) -> LineChart:
    each = rows(found, "positions")[:MOST_POINTS]
    starts, ends = ([number(row.get(k)) for row in each] for k in ("first", "last"))
    xs = [
        ((a or 0.0) + (b if b is not None else a or 0.0)) / 2
        for a, b in zip(starts, ends, strict=True)
    ]
    if any(b <= a for a, b in pairwise(xs)):
        xs = [float(i) for i in range(len(each))]
    curve = Curve(
        "",
        [number(row.get("kl")) for row in each],
        "checkpoint",
        [row.get("interval") for row in each],
    )
    return lines(
        "KL by position",
        "nats a token, with 95% intervals",
        "position in the window, tokens",
        xs,
        [curve],
        (nats, tick),
        x_axis=tight([*starts, *ends]),
        wide=True,
    )


def _sure(row: Data, key: str) -> object:
    return part(row, "intervals").get(key)


def _lengths(found: Data) -> RowChart:
    return dots(
        "KL by length",
        "nats a token, with 95% intervals, the same text in windows of each length",
        [
            DotWhisker(
                f"{show(row.get('length'), whole)} tokens", number(row.get("kl")), _sure(row, "kl")
            )
            for row in rows(found, "lengths")
        ],
        (nats, tick),
    )


def _table(found: Data) -> HtmlTable:
    return table(
        "Each length",
        (
            "length",
            "windows",
            "tokens",
            "KL (nats)",
            "same first token",
            "perplexity, reference",
            "checkpoint",
        ),
        [
            (
                show(row.get("length"), whole),
                show(row.get("windows"), whole),
                show(row.get("tokens"), whole),
                cell(row.get("kl"), nats, _sure(row, "kl")),
                cell(row.get("top1"), share, _sure(row, "top1")),
                show(row.get("perplexity_reference"), perplexity),
                show(row.get("perplexity_quantized"), perplexity),
            )
            for row in rows(found, "lengths")
        ],
    )


def _brief(found: Data) -> HtmlTable:
    return table(
        "Long context",
        ("length", "KL (nats)", "same first token"),
        [
            (
                show(row.get("length"), whole),
                cell(row.get("kl"), nats, _sure(row, "kl")),
                show(row.get("top1"), share),
            )
            for row in rows(found, "lengths")
        ],
    )
