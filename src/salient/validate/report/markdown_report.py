"""The report as GitHub Markdown, short enough for the comment of a pull request.

Text that others wrote is escaped; names and answers are also inside <code>.
"""

from collections.abc import Iterable

from salient.core.markdown import escape_markdown, markdown_table
from salient.validate.result import ValidationResult
from salient.validate.tasks.comparison import AnswerFlip

from .parts import HtmlCell, HtmlTable, Section
from .policy_view import RuleView, VerdictView, verdict_view
from .sections import method_facts, sections
from .text_format import cut, line, visible

MOST_BYTES = 60_000  # GitHub takes comments of 65,536 characters
MOST_FLIPS = 10
MOST_ROWS = 12
LONGEST = 240  # characters of an answer
CELL = 200  # characters of a cell
CUT = "\n_The rest is left out here; report.html has it._\n"
HEADINGS = {"pass": "✅ Pass", "fail": "❌ Fail", "could not measure": "❔ Could not measure"}
HOLDS = {True: "✅ holds", False: "❌ does not hold", None: "❔ undecided"}


def markdown(result: ValidationResult) -> str:
    """Markdown of a validation, always under MOST_BYTES bytes.

    Verdict, rules, the short table of each section, and at most MOST_FLIPS flips, folded.
    """
    rendered, verdict = sections(result), verdict_view(result.verdict)
    checkpoint, reference = (_code(line(n, 120)) for n in (result.checkpoint, result.reference))
    more = len(verdict.reasons) - len(verdict.shown)
    reasons = [*map(_reason, verdict.shown), *([f"and {more} more"] if more else [])]
    facts = (f"{name.lower()} {escaped(value)}" for name, value in method_facts(result)[2:])
    pieces = [
        f"## {HEADINGS.get(verdict.word, '❔ No verdict')}: {checkpoint}\n\n"
        f"{escaped(verdict.why)} Compared with {reference}.\n",
        "".join(f"- {reason}\n" for reason in reasons),
        _rules(verdict),
        *map(_section, rendered),
        *(_flips(section.flips) for section in rendered if section.flips),
        f"<sub>{'; '.join(facts)}</sub>\n",
    ]
    return _limited(pieces)


def _limited(pieces: Iterable[str]) -> str:
    """The pieces in order, without those that exceed the limit, and a note if there are any."""
    text, room, complete = "", MOST_BYTES - len(CUT.encode()), True
    for piece in filter(None, pieces):
        size = len(piece.encode()) + 1
        if size > room:
            complete = False
            continue
        text, room = f"{text}{piece}\n", room - size
    return text if complete else text + CUT


def escaped(text: str) -> str:
    """`text` on one line, without markup and invisible characters."""
    return escape_markdown(visible(text))


def _code(text: str) -> str:
    return f"<code>{escaped(text)}</code>" if text.strip() else "_nothing_"


def _reason(rule: RuleView) -> str:
    interval = f" ({rule.small})" if rule.small else ""
    remark = f" {escaped(cut(rule.remark, LONGEST))}" if rule.remark else ""
    figure = f"**{escaped(f'{rule.title}: {rule.figure}')}**{escaped(interval)}"
    return f"{figure}, required: {escaped(rule.bound)}.{remark}"


def _rules(verdict: VerdictView) -> str:
    pieces = [*map(escaped, verdict.remarks)]
    if verdict.rules:
        rows = [
            (*map(escaped, (f"{r.stage}: {r.title}", r.figure, r.small, r.bound)), HOLDS[r.passed])
            for r in verdict.rules[: 2 * MOST_ROWS]
        ]
        columns = ("rule", "measured", "95% interval", "required", "")
        pieces.insert(0, _rows(columns, rows, columns[3:], len(verdict.rules)))
    return "\n".join(pieces) + "\n"


def _rows(
    columns: tuple[str, ...], rows: list[tuple[str, ...]], text_columns: tuple[str, ...], total: int
) -> str:
    """A table, and how many of `total` rows it leaves out."""
    more = f"\n_{total - len(rows)} more rows are in the page._\n" if total > len(rows) else ""
    return f"{markdown_table(columns, rows, text_columns)}\n{more}"


def _section(section: Section) -> str:
    if section.error:
        return f"### {section.title}\n\nCould not be measured: {escaped(section.error)}\n"
    pieces = [f"### {section.title}\n", f"{escaped(section.lead)}\n"]
    pieces += [_table(table) for table in section.tables if table.brief and table.rows]
    return "\n".join(pieces)


def _table(table: HtmlTable) -> str:
    """The brief columns of a table."""
    places = [0, *(table.columns.index(column) for column in table.brief)]
    names = [table.columns[place] for place in places]
    rows = [tuple(_cell(row[place]) for place in places) for row in table.rows[:MOST_ROWS]]
    columns, text_columns = (tuple(map(escaped, each)) for each in (names, table.text_columns))
    return _rows(columns, rows, text_columns, len(table.rows))


def _cell(cell: HtmlCell) -> str:
    return escaped(cut(cell.text, CELL) + (f" ({cell.small})" if cell.small else ""))


def _flips(flips: list[AnswerFlip]) -> str:
    shown = flips[:MOST_FLIPS]
    columns = ("example", "", "expected", "reference", "checkpoint")
    table = markdown_table(columns, map(_flip, shown), columns)
    summary = f"{len(shown)} examples that only one of the two gets right"
    return f"<details><summary>{summary}</summary>\n\n{table}\n\n</details>\n"


def _flip(flip: AnswerFlip) -> tuple[str, ...]:
    expected = " or ".join(line(text, 120) for text in flip.example.expected[:5])
    answers = (_code(cut(text, LONGEST)) for text in (flip.reference, flip.quantized))
    return (_code(line(flip.example.id, 60)), flip.direction, _code(expected), *answers)
