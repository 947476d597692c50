"""The Markdown of a validation, rendered as GitHub does: short, complete, no foreign markup."""

import math
import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from test_report_page import EVIL, STAGES, only, with_flips, with_rule

from helpers.html_tree import Node, tree
from helpers.report_data import mapped, toy_result
from salient.core.metrics import LogitsComparison
from salient.validate.report.markdown_report import MOST_BYTES, escaped, markdown
from salient.validate.report.text_format import MISSING
from salient.validate.result import ValidationResult
from salient.validate.stage import UnmeasuredStage

SIGNS = "| a | `code` ``` <b> **bold** _it_ ~~no~~ [x](http://e.example) ![i](//e) # 1. - > $x$ \\"


@pytest.fixture(scope="module")
def passing() -> ValidationResult:
    return toy_result()


@pytest.fixture(scope="module")
def failing() -> ValidationResult:
    return toy_result(damaged=17)


def rendered(text: str) -> Node:
    """With tables, and raw HTML as GitHub lets it through."""
    return tree(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def poisoned(result: ValidationResult, text: str) -> ValidationResult:
    return mapped(result, lambda own: f"{text} {own}")


@pytest.mark.parametrize(
    ("passed", "first"),
    [(True, "## ✅ Pass: "), (False, "## ❌ Fail: "), (None, "## ❔ Could not measure: ")],
)
def test_the_first_line_is_the_verdict(passing, passed, first):
    assert markdown(with_rule(passing, 0, passed=passed)).startswith(first)


def test_without_a_policy_there_is_no_verdict(passing):
    assert markdown(replace(passing, verdict=None)).startswith("## ❔ No verdict: ")


def test_every_rule_and_every_section_is_there(failing):
    text = rendered(markdown(failing))
    rules = list(text.one("table").one("tbody").all("tr"))
    assert len(rules) == len(failing.verdict.rules)
    holds = [list(row.all("td"))[-1].line[2:] for row in rules]
    assert holds == ["does not hold"] * 4 + ["holds"] * 4
    assert len(list(text.all("h3"))) == len(STAGES) + 1  # and memory


@pytest.mark.parametrize("foreign", [EVIL, SIGNS, "one\n\n# two\n---\n| three |", "a\n</details>"])
def test_foreign_text_never_becomes_markup(failing, foreign):
    own, text = (rendered(markdown(each)) for each in (failing, poisoned(failing, foreign)))
    allowed = {node.tag for node in own.all()} | {"br"}
    assert {node.tag for node in text.all()} <= allowed
    assert not list(text.all("a"))
    for tag in ("h1", "h2", "h3", "table", "details", "li"):
        assert len(list(text.all(tag))) == len(list(own.all(tag))), tag


@pytest.mark.parametrize("foreign", [SIGNS, "a_b*c", "x|y", "&amp; &#65;", 'it\'s 100% "so"'])
def test_foreign_text_reads_as_written(foreign):
    cells = rendered(f"| a |\n|---|\n| {escaped(foreign)} |\n").one("tbody")
    assert cells.line.replace("\u2060", "") == " ".join(foreign.split())


@pytest.mark.parametrize("mention", ["@someone", "#123", "https://e.example", "www.e.example"])
def test_nobody_is_mentioned_and_nothing_linked(mention):
    text = escaped(f"see {mention} here")
    assert mention not in text
    assert mention not in rendered(text).line or mention[0] not in "@#"


def test_every_row_of_a_table_has_its_columns(failing):
    width = None
    for line in markdown(poisoned(failing, "a|b\nc\\")).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        count = len(re.findall(r"(?<!\\)\|", line))
        assert count == (width or count)
        width = count


def test_at_most_ten_examples_are_shown_folded(failing):
    assert len(failing.tasks.comparison.flips) > 10
    folded = rendered(markdown(failing)).one("details")
    assert len(list(folded.one("tbody").all("tr"))) == 10


@pytest.mark.parametrize("sign", ["x", "|", "\x00", "\U0010ffff", "\U0001d518", "<"])
def test_the_size_is_limited(failing, sign):
    result = poisoned(with_flips(failing, *failing.tasks.comparison.flips * 3), sign * 5000)
    rules = result.verdict.rules * 40
    text = next(iter(result.likelihood.texts.values()))
    texts = {f"{sign * 300}{number}": text for number in range(500)}
    result = replace(
        result,
        verdict=replace(result.verdict, rules=rules),
        likelihood=replace(result.likelihood, texts=texts),
    )
    text = markdown(result)
    assert len(text.encode()) < MOST_BYTES
    assert text.startswith("## ❌ Fail: ")
    assert "more rows are in the page" in text or "left out here" in text


def test_a_cut_report_ends_with_a_note(failing, passing):
    assert "The rest is left out here" in markdown(poisoned(failing, "\U0010ffff" * 5000))
    assert "left out" not in markdown(passing)


def test_a_missing_figure_is_never_a_number(passing):
    sums = LogitsComparison(0, math.nan, 0, 0, math.nan, math.nan)
    text = replace(passing.likelihood.total, sums=sums, intervals={})
    result = only(passing, "likelihood")
    result = replace(result, likelihood=replace(result.likelihood, total=text))
    row = next(r for r in rendered(markdown(result)).all("tr") if r.line.startswith("all texts"))
    cells = [cell.line for cell in row.all("td")]
    assert (cells[2], cells[4]) == (MISSING, MISSING)


@pytest.mark.parametrize("name", STAGES)
def test_an_unmeasured_section_shows_the_reason(passing, name):
    result = replace(passing, **{name: UnmeasuredStage(name, "no memory was left")})
    assert "Could not be measured: no memory was left" in markdown(result)
