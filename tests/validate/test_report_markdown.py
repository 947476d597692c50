"""The Markdown of a validation, rendered as GitHub does: short, whole, and nobody else's markup."""

import random
import re
from typing import Any

import pytest
from markdown_it import MarkdownIt
from test_report_page import EVIL, NOTHING, SECTIONS, WILD, walked

from helpers.html_tree import Node, tree
from helpers.report_data import toy_data
from salient.validate.report import markdown
from salient.validate.report.figures import MISSING
from salient.validate.report.markdown_report import MOST_BYTES, escaped

SIGNS = "| a | `code` ``` <b> **bold** _it_ ~~no~~ [x](http://e.example) ![i](//e) # 1. - > $x$ \\"


def rendered(text: str) -> Node:
    """With tables, and raw HTML as GitHub lets it through."""
    return tree(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def poisoned(text: str) -> dict[str, Any]:
    data = walked(toy_data(damaged=17), lambda v: f"{v} {text}" if isinstance(v, str) else v)
    for where, names in (("likelihood", "texts"), ("tasks", "kinds")):
        named = data[where][names]
        data[where][names] = {f"{text} {name}": value for name, value in named.items()}
    for rule in data["verdict"]["rules"]:
        rule.update(direction="at most", kind=text)
    return data


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({}, "## ✅ Pass: "),
        ({"verdict": "fail", "exit_code": 1}, "## ❌ Fail: "),
        ({"verdict": "could not measure", "exit_code": 2}, "## ❔ Could not measure: "),
        ({"exit_code": 1}, "## ❔ Could not measure: "),
    ],
)
def test_the_first_line_is_the_verdict_and_only_a_sound_pass_reads_as_one(change, first):
    data = toy_data()
    data["verdict"].update(change)
    assert markdown(data).startswith(first)
    assert ("Pass" in markdown(data).splitlines()[0]) is (first == "## ✅ Pass: ")


def test_a_rule_that_does_not_hold_makes_it_a_fail_whatever_the_verdict_says():
    data = toy_data()
    data["verdict"]["rules"][0]["passed"] = False
    assert markdown(data).startswith("## ❌ Fail: ")


def test_without_a_verdict_none_is_claimed():
    data = toy_data()
    del data["verdict"]
    assert markdown(data).startswith("## ❔ No verdict: ")


def test_every_rule_and_every_section_is_there():
    data = toy_data(damaged=17)
    found = rendered(markdown(data))
    rules = list(found.one("table").one("tbody").all("tr"))
    assert len(rules) == len(data["verdict"]["rules"])
    assert [list(row.all("td"))[-1].words[2:] for row in rules[:5]] == ["does not hold"] * 4 + [
        "holds"
    ]
    assert len(list(found.all("h3"))) == len(SECTIONS)


@pytest.mark.parametrize("text", [EVIL, SIGNS, "one\n\n# two\n---\n| three |", "a\n</details>"])
def test_nothing_that_others_wrote_is_markup(text):
    own = rendered(markdown(toy_data(damaged=17)))
    found = rendered(markdown(poisoned(text)))
    allowed = {node.tag for node in own.all()} | {"br"}
    assert {node.tag for node in found.all()} <= allowed
    assert not list(found.all("a"))
    for tag in ("h1", "h2", "h3", "table", "details", "li"):
        assert len(list(found.all(tag))) == len(list(own.all(tag))), tag


@pytest.mark.parametrize("text", [SIGNS, "a_b*c", "x|y", "&amp; &#65;", 'it\'s 100% "so"'])
def test_what_others_wrote_is_read_as_they_wrote_it(text):
    cells = rendered(f"| a |\n|---|\n| {escaped(text)} |\n").one("tbody")
    assert cells.words.replace("\u2060", "") == " ".join(text.split())


@pytest.mark.parametrize("call", ["@someone", "#123", "https://e.example", "www.e.example"])
def test_nobody_is_called_and_nothing_linked(call):
    text = escaped(f"see {call} here")
    assert call not in text
    assert call not in rendered(text).words or call[0] not in "@#"


def test_every_row_of_a_table_has_its_columns():
    width = None
    for line in markdown(poisoned("a|b\nc\\")).splitlines():
        if not line.startswith("|"):
            width = None
            continue
        count = len(re.findall(r"(?<!\\)\|", line))
        assert count == (width or count)
        width = count


def test_at_most_ten_examples_are_shown_and_they_are_folded():
    data = toy_data(damaged=17)
    assert len(data["tasks"]["flips"]) > 10
    folded = rendered(markdown(data)).one("details")
    assert len(list(folded.one("tbody").all("tr"))) == 10


@pytest.mark.parametrize("sign", ["x", "|", "\x00", "\U0010ffff", "\U0001d518", "<"])
def test_it_stays_under_its_limit_whatever_the_texts(sign):
    data = poisoned(sign * 5000)
    data["tasks"]["flips"] *= 3
    rules = data["verdict"]["rules"]
    data["verdict"]["rules"] = rules * 40
    data["likelihood"]["texts"] |= {f"{sign * 300}{i}": {} for i in range(500)}
    text = markdown(data)
    assert len(text.encode()) < MOST_BYTES
    assert text.startswith("## ❌ Fail: ")
    assert "more rows are in the page" in text or "left out here" in text


def test_what_has_no_room_is_said_to_be_left_out():
    data = poisoned("\U0010ffff" * 5000)
    assert "The rest is left out here" in markdown(data)
    assert "left out" not in markdown(toy_data())


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_figure_that_is_missing_is_no_number(nothing):
    data = toy_data()
    for key in ("kl", "top1", "perplexity_increase", "tokens"):
        data["likelihood"]["all"][key] = nothing
    row = next(
        row for row in rendered(markdown(data)).all("tr") if row.words.startswith("all texts")
    )
    assert [cell.words for cell in row.all("td")][1:] == [MISSING] * 4


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_that_could_not_be_measured_says_why(name):
    data = {**toy_data(), name: {"error": "no memory was left"}}
    assert "Could not be measured: no memory was left" in markdown(data)


def test_whatever_the_data_lack_there_is_a_text():
    dice = random.Random(0)
    for _ in range(20):
        data = walked(toy_data(), lambda v: dice.choice(WILD) if dice.random() < 0.1 else v)
        assert rendered(markdown(data)).one("h2")
