"""What both models answer to the same examples, and where they part."""

from itertools import takewhile

from salient.validate.report.charts.axis import Level
from salient.validate.report.charts.rows import (
    DotWhisker,
    PairedFigure,
    RowChart,
    bars,
    dots,
    pairs,
)
from salient.validate.report.figures import (
    number,
    rate,
    seconds,
    share,
    share_tick,
    short,
    show,
    tick,
)
from salient.validate.report.figures import whole as count_of
from salient.validate.report.levels import asked
from salient.validate.report.parts import (
    AnswerText,
    FlipList,
    FlipRow,
    HtmlTable,
    Section,
    cell,
    table,
    tile,
)
from salient.validate.report.reading import Data, named, part, rows, texts
from salient.validate.report.text_format import cut, line

ALL = "all examples"
EQUAL = Level(1.0, "as the reference", asked=False)
AT_ONCE = 12  # flips that are not folded
MOST_FLIPS = 200
SHOWN = 420  # characters of a text beside another
LONGEST = 3000  # characters of a text that is unfolded
MODELS = {"reference": "reference", "quantized": "checkpoint"}


def tasks(found: Data, data: Data) -> Section:
    """The section `tasks`."""
    kinds = [(line(name, 40), tally) for name, tally in named(found, "kinds")]
    everything = [*kinds, (ALL, found)] if len(kinds) != 1 else kinds
    section = Section("tasks", "Tasks", _lead(found))
    section.charts = [_accuracy(everything), _retention(everything, data)]
    section.tables, section.brief = [_table(everything)], [_brief(everything)]
    if part(found, "throughput"):
        section.charts.append(_throughput(part(found, "throughput")))
        section.tables.append(_speeds(part(found, "throughput")))
    section.flips = _flips(rows(found, "flips"))
    section.notes = [line(note, 400) for note in texts(found, "notes")]
    section.tiles = [
        tile(
            data,
            ("tasks", "retention"),
            "Retention",
            (found.get("retention"), share),
            f"of {show(found.get('count'), count_of, 'unknown')} examples",
        )
    ]
    return section


def _lead(found: Data) -> str:
    before, after = (
        show(found.get(f"accuracy_{side}"), share, "") for side in ("reference", "quantized")
    )
    lost, gained = (show(found.get(key), count_of, "") for key in ("lost", "gained"))
    said = "How many answers are right was not measured."
    if before and after:
        said = f"The reference gets {before} right, the checkpoint {after}."
    return said + (f" {lost} examples are lost, {gained} gained." if lost and gained else "")


def _accuracy(kinds: list[tuple[str, Data]]) -> RowChart:
    return pairs(
        "Right answers by kind",
        "share of examples, both models",
        [
            PairedFigure(
                name,
                number(tally.get("accuracy_reference")),
                number(tally.get("accuracy_quantized")),
                number(tally.get("chance")),
                strong=name == ALL,
            )
            for name, tally in kinds
        ],
        (share, share_tick),
    )


def _retention(kinds: list[tuple[str, Data]], data: Data) -> RowChart:
    return dots(
        "Retention by kind",
        "of what the reference gets right, with 95% intervals",
        [
            DotWhisker(
                name,
                number(tally.get("retention")),
                tally.get("interval"),
                strong=name == ALL,
            )
            for name, tally in kinds
        ],
        (share, share_tick),
        [
            *asked(data, "tasks", "retention", share_tick),
            Level(1.0, "as the reference", asked=False),
        ],
        zero=False,
    )


def _throughput(found: Data) -> RowChart:
    return bars(
        "Speed of the answers",
        "prompt and new tokens a second, in this run",
        [
            DotWhisker(words, number(part(found, side).get("tokens_a_second")), colour=words)
            for side, words in MODELS.items()
            if side in found
        ],
        (rate, tick),
        wide=True,
    )


def _speeds(found: Data) -> HtmlTable:
    return table(
        "Speed of the answers",
        ("model", "prompt tokens", "new tokens", "seconds", "tokens/s", "runs as"),
        [
            (
                words,
                show(part(found, side).get("prompt_tokens"), count_of),
                show(part(found, side).get("new_tokens"), count_of),
                show(part(found, side).get("seconds"), seconds),
                show(part(found, side).get("tokens_a_second"), short),
                line(part(found, side).get("runs_as"), 120),
            )
            for side, words in MODELS.items()
            if side in found
        ],
        words=("runs as",),
    )


def _table(kinds: list[tuple[str, Data]]) -> HtmlTable:
    return table(
        "Each kind",
        (
            "kind",
            "examples",
            "reference",
            "checkpoint",
            "retention",
            "lost",
            "gained",
            "both wrong, otherwise",
            "p",
        ),
        [
            (
                name,
                show(t.get("count"), count_of),
                show(t.get("accuracy_reference"), share),
                show(t.get("accuracy_quantized"), share),
                cell(t.get("retention"), share, t.get("interval")),
                show(t.get("lost"), count_of),
                show(t.get("gained"), count_of),
                show(t.get("changed"), count_of),
                show(t.get("p_value"), lambda p: f"{p:.2g}"),
            )
            for name, t in kinds
        ],
        note="p: how likely a difference this large is by luck alone (McNemar's exact test, "
        "two-sided). “Both wrong, otherwise” counts wrong answers that changed.",
    )


def _brief(kinds: list[tuple[str, Data]]) -> HtmlTable:
    return table(
        "Tasks",
        ("kind", "examples", "reference", "checkpoint", "retention", "lost", "gained"),
        [
            (
                name,
                show(t.get("count"), count_of),
                show(t.get("accuracy_reference"), share),
                show(t.get("accuracy_quantized"), share),
                cell(t.get("retention"), share, t.get("interval")),
                show(t.get("lost"), count_of),
                show(t.get("gained"), count_of),
            )
            for name, t in kinds
        ],
    )


def _flips(found: list[Data]) -> FlipList:
    """Lost ones first, in the order of the examples."""
    ordered = sorted(found, key=lambda flip: flip.get("direction") == "gained")
    shown = [_flip(flip) for flip in ordered[:MOST_FLIPS]]
    left = len(ordered) - len(shown)
    note = f"{left} more are in report.json." * (left > 0)
    return FlipList(shown[:AT_ONCE], shown[AT_ONCE:], note)


def _flip(found: Data) -> FlipRow:
    expected = " or ".join(line(one, 120) for one in texts(found, "expected")[:5])
    before, after = (str(found.get(side) or "") for side in ("reference", "quantized"))
    same = _alike(before, after)
    return FlipRow(
        line(found.get("id"), 60),
        line(found.get("kind"), 40),
        found.get("direction") != "gained",
        _answer(str(found.get("prompt") or ""), len(str(found.get("prompt") or ""))),
        expected,
        _answer(before, same),
        _answer(after, same),
    )


def _alike(before: str, after: str) -> int:
    """How many characters both begin with, in whole words."""
    pairs = zip(before, after, strict=False)
    same = sum(1 for _ in takewhile(lambda two: two[0] == two[1], pairs))
    while 0 < same < max(len(before), len(after)) and before[same - 1].isalnum():
        same -= 1
    return same


def _answer(text: str, same: int) -> AnswerText:
    """A text in its two pieces; cut in the middle where it is long, and then whole besides."""
    if len(text) <= SHOWN:
        return AnswerText(text[:same], text[same:])
    return AnswerText("", cut(text, SHOWN), cut(text, LONGEST), max(0, len(text) - LONGEST))
