"""Where the loss comes from: one block, or one kind of layer, quantized and the rest not."""

import re
from statistics import median

from salient.validate.report.charts.columns import ColumnChart, columns
from salient.validate.report.charts.rows import DotWhisker, RowChart, bars
from salient.validate.report.figures import UNMEASURED, nats, number, share, short, show, size, tick
from salient.validate.report.parts import HtmlTable, Section, Tile, table
from salient.validate.report.reading import Data, error, part, rows, texts, words
from salient.validate.report.text_format import line

EACH = "each figure here is the KL with that part alone in 4 bits"
STANDS_OUT = 8.0  # times the median block's KL
MANY_BLOCKS = 40  # from here on they take the width of the page
MOST_BLOCKS = 300
LISTED = 6


def attribution(found: Data, data: Data) -> Section:
    """The section `attribution`."""
    blocks = [(_block(row), number(row.get("kl"))) for row in rows(found, "blocks")[:MOST_BLOCKS]]
    measured = [kl for _, kl in blocks if kl is not None]
    high = STANDS_OUT * median(measured) if measured else 0.0
    loud = [name for name, kl in blocks if kl is not None and kl >= high > 0]
    section = Section("attribution", "Where the loss comes from", _lead(found, blocks, loud))
    wide = len(blocks) > MANY_BLOCKS
    if blocks:
        section.charts.append(_by_block(blocks, high if loud else 0.0))
        section.tables.append(_worst(blocks, sum(measured)))
        section.brief.append(_worst(blocks, sum(measured)))
    if rows(found, "kinds"):
        section.charts.append(_by_kind(rows(found, "kinds"), wide=wide))
    if rows(found, "suggestions"):
        section.tables.append(_suggestions(found))
        section.brief.append(_suggestions(found))
    drift = part(found, "drift")
    if rows(drift, "texts"):
        section.tables.append(_drift(drift))
    section.notes = [*_outside(found), *(line(note, 400) for note in texts(found, "notes"))]
    if why := error(found, "drift") or words(drift, "why"):
        section.notes.append(
            f"Whether the texts are like the calibration is not known: {line(why, 400)}."
        )
    section.tiles = _tiles(blocks, sum(measured))
    return section


def _by_block(blocks: list[tuple[str, float | None]], high: float) -> ColumnChart:
    wide = len(blocks) > MANY_BLOCKS
    return columns(
        "KL by block", "nats a token", "block", blocks, nats, standing_out=high, wide=wide
    )


def _by_kind(kinds: list[Data], *, wide: bool) -> RowChart:
    each = [DotWhisker(line(row.get("name"), 60), number(row.get("kl"))) for row in kinds]
    each.sort(key=lambda m: -1.0 if m.value is None else m.value, reverse=True)
    return bars("KL by kind of layer", "nats a token", each, (nats, tick), wide=wide)


def _block(row: Data) -> str:
    name = line(row.get("name"), 60)
    return re.sub(r"^.*?(\d+)$", r"block \1", name)


def _lead(found: Data, blocks: list[tuple[str, float | None]], loud: list[str]) -> str:
    windows, length = (number(found.get(k)) for k in ("windows", "length"))
    on = f" on {windows:.0f} windows of {length:.0f} tokens" if windows and length else ""
    kl = show(found.get("whole"), nats, "")
    total = f"is {kl} nats a token" if kl else "was not measured"
    start = f"The whole checkpoint's KL{on} {total}; {EACH}."
    if loud:
        some = ", ".join(loud[:4]) + f" and {len(loud) - 4} more" * (len(loud) > 4)
        verb = "stands" if len(loud) == 1 else "stand"
        some = some[0].upper() + some[1:]
        return f"{start} {some} {verb} out: {STANDS_OUT:g} times the median block or more."
    return f"{start} No block stands out." if len(blocks) > 2 else start


def _outside(found: Data) -> list[str]:
    kl = number(found.get("outside"))
    said = f"The embedding, the last norm and the head alone have a KL of {nats(kl or 0.0)}."
    return [said] if kl else []


def _ranked(blocks: list[tuple[str, float | None]]) -> list[tuple[str, float]]:
    found = [(name, kl) for name, kl in blocks if kl is not None]
    return sorted(found, key=lambda block: block[1], reverse=True)


def _tiles(blocks: list[tuple[str, float | None]], total: float) -> list[Tile]:
    if not (ranked := _ranked(blocks)):
        return [Tile("Worst block", UNMEASURED)]
    name, kl = ranked[0]
    return [Tile("Worst block", name, f"{share(kl / total)} of all blocks' KL" if total else "")]


def _worst(blocks: list[tuple[str, float | None]], total: float) -> HtmlTable:
    return table(
        "Blocks that lose most",
        ("block", "KL (nats)", "of all blocks' KL"),
        [
            (name, nats(kl), share(kl / total) if total else "")
            for name, kl in _ranked(blocks)[:LISTED]
        ],
    )


def _suggestions(found: Data) -> HtmlTable:
    return table(
        "What would help",
        ("change", "KL then (nats)", "that is", "extra size"),
        [
            (
                line(row.get("what"), 300),
                show(row.get("kl"), nats, "not known"),
                _known(row),
                show(row.get("bytes"), size) if _known(row) else "",
            )
            for row in rows(found, "suggestions")
        ],
        words=("that is",),
    )


def _yardstick(drift: Data) -> list[Data]:
    found = part(drift, "yardstick")
    return (
        [{**found, "text": "two halves of the calibration", "words": "for comparison"}]
        if found
        else []
    )


def _known(row: Data) -> str:
    if number(row.get("kl")) is None:
        return ""
    return "measured" if row.get("measured") is True else "estimated"


def _drift(drift: Data) -> HtmlTable:
    calibration = line(words(drift, "calibration"), 120) or "texts that are not known"
    return table(
        "Texts against the calibration",
        ("text", "salient channels kept", "mean log ratio", "in words"),
        [
            (
                line(row.get("text"), 60),
                show(row.get("kept_salient"), share),
                show(row.get("log_ratio"), short),
                line(row.get("words"), 200),
            )
            for row in (*_yardstick(drift), *rows(drift, "texts"))
        ],
        words=("in words",),
        note=f"The checkpoint was calibrated on {calibration}. Where a text keeps few of the "
        "channels that were salient then, calibrate on such texts too.",
    )
