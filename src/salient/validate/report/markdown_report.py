"""The report as GitHub Markdown, short enough for the comment of a pull request.

Every sign in a text that Markdown, HTML or GitHub (mentions, links) could take for its own is
written as an entity; what models and users wrote at length stands inside <code> besides.
"""

from collections.abc import Iterable

from salient.core.markdown import escape_markdown, markdown_table
from salient.validate.report.sections.method import method
from salient.validate.report.sections.verdict import RuleView, VerdictView, verdict

from .parts import AnswerText, FlipRow, HtmlCell, HtmlTable, Section
from .reading import Data
from .sections import sections
from .text_format import cut, line, visible

MOST_BYTES = 60_000  # GitHub takes comments of 65,536 characters
MOST_FLIPS = 10
MOST_ROWS = 12
LONGEST = 240  # characters of an answer
CELL = 200  # characters of a cell
CUT = "\n_The rest is left out here: the page report.html has it._\n"
_WORDS = {"pass": "✅ Pass", "fail": "❌ Fail", "could not measure": "❔ Could not measure"}
_HOLDS = {True: "✅ holds", False: "❌ does not hold", None: "❔ undecided"}


def markdown(data: Data) -> str:
    """Markdown for `data`, under MOST_BYTES bytes whatever it holds.

    Verdict, rules, a short table of each section, and at most MOST_FLIPS flips, folded.
    """
    made, found = sections(data), verdict(data)
    pieces = [_head(data, found), _reasons(found), _rules(found), *map(_section, made)]
    pieces += [_flips(section) for section in made if section.flips]
    pieces.append(_method(data))
    return _fitted(pieces)


def _fitted(pieces: Iterable[str]) -> str:
    """The pieces, in order; one that has no room any more is left out, and that is said."""
    text, room, left = "", MOST_BYTES - len(CUT.encode()), False
    for piece in filter(None, pieces):
        size = len(piece.encode()) + 1
        if size > room:
            left = True
            continue
        text, room = f"{text}{piece}\n", room - size
    return text + CUT if left else text


def escaped(text: str) -> str:
    """`text` on one line, free of markup and of characters that show nothing."""
    return escape_markdown(visible(text))


def _code(text: str) -> str:
    return f"<code>{escaped(text)}</code>" if text.strip() else "_nothing_"


def _head(data: Data, found: VerdictView) -> str:
    return (
        f"## {_WORDS.get(found.word, '❔ No verdict')}: {_named(data, 'checkpoint')}\n\n"
        f"{escaped(found.why)} Held against {_named(data, 'reference')}.\n"
    )


def _reasons(found: VerdictView) -> str:
    lines = [f"- {_reason(rule)}" for rule in found.shown]
    if len(found.reasons) > len(found.shown):
        lines.append(f"- and {len(found.reasons) - len(found.shown)} more")
    return "\n".join(lines) + "\n" if lines else ""


def _rules(found: VerdictView) -> str:
    lines = []
    if found.rules:
        lines = ["| rule | measured | 95% interval | asked | |", "|---|--:|--:|---|---|"]
        lines += [
            _row([*map(escaped, (_title(r), r.figure, r.small, r.asked)), _HOLDS[r.passed]])
            for r in found.rules[: 2 * MOST_ROWS]
        ]
        lines += [_more(len(found.rules) - 2 * MOST_ROWS), ""]
    return "\n".join([*lines, *(escaped(remark) for remark in found.remarks)]) + "\n"


def _named(data: Data, key: str) -> str:
    return _code(line(data.get(key), 120) or f"an unnamed {key}")


def _title(rule: RuleView) -> str:
    return f"{rule.stage}: {rule.title}" if rule.stage else rule.title


def _reason(rule: RuleView) -> str:
    small = f" ({rule.small})" if rule.small else ""
    words = f" {escaped(cut(rule.words, LONGEST))}" if rule.words else ""
    found = f"**{escaped(f'{rule.title}: {rule.figure}')}**{escaped(small)}"
    return f"{found}, where {escaped(rule.asked)} is asked.{words}"


def _section(section: Section) -> str:
    lines = [f"### {section.title}", ""]
    if section.error:
        return "\n".join([*lines, f"Could not be measured: {escaped(section.error)}", ""])
    lines += [escaped(section.lead), ""]
    for one in filter(lambda brief: brief.rows, section.brief):
        lines += [_table(one), ""]
    return "\n".join(lines)


def _table(table: HtmlTable) -> str:
    rows = [tuple(map(_cell, row)) for row in table.rows[:MOST_ROWS]]
    columns = tuple(map(escaped, table.columns))
    text_columns = tuple(map(escaped, table.words))
    return "\n".join(
        [markdown_table(columns, rows, text_columns), _more(len(table.rows) - MOST_ROWS)]
    )


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: HtmlCell) -> str:
    small = f" ({cell.small})" if cell.small else ""
    return escaped(cut(cell.text, CELL) + small)


def _more(count: int) -> str:
    return f"\n_{count} more rows are in the page._" if count > 0 else ""


def _flips(section: Section) -> str:
    found = section.flips
    shown = [*found.first, *found.rest][:MOST_FLIPS] if found else []
    if not shown:
        return ""
    lines = [
        f"<details><summary>{len(shown)} examples that only one of the two gets right</summary>",
        "",
        "| example | | expected | reference | checkpoint |",
        "|---|---|---|---|---|",
        *map(_flip, shown),
        "",
        "</details>",
        "",
    ]
    return "\n".join(lines)


def _flip(flip: FlipRow) -> str:
    cells = (_code(flip.name), "lost" if flip.lost else "gained", _code(flip.expected))
    return _row([*cells, _answer(flip.reference), _answer(flip.quantized)])


def _answer(answer: AnswerText) -> str:
    return _code(cut(answer.same + answer.other, LONGEST))


def _method(data: Data) -> str:
    facts = [f"{name.lower()} {escaped(value)}" for name, value in method(data).facts[2:]]
    return f"<sub>{'; '.join(facts)}</sub>\n" if facts else ""
