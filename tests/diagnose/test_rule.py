"""Rules: what a condition returns, and the findings that follow."""

import pytest

from salient.diagnose.rule import Count, FindingTemplate, Match, Rule, apply_rules
from salient.diagnose.steps import Step
from salient.diagnose.tables import read_rows, read_rules

PLACES = [("a.json: x", "1"), ("b.json: x", "2")]


def rule(when, **fields):
    return Rule("id", "error", "{value} of {count:file}", when, **fields)


@pytest.mark.parametrize("outcome", [False, None, "", [], ()])
def test_an_empty_outcome_gives_no_finding(outcome):
    assert apply_rules([rule(lambda facts: outcome)], facts=0) == []


def test_a_text_fills_the_braces():
    (finding,) = apply_rules([rule(str, why="{value}.", do=(Step("use {value}"),))], facts=7)
    assert (finding.title, finding.why, finding.do) == ("7 of 1 file", "7.", ("use 7",))


def test_items_become_evidence_and_their_number_the_count():
    row = rule(lambda facts: [1, 2] * 4, where="log", text="{item} of {value}")
    (finding,) = apply_rules([row], facts=0, values={"value": "x"})
    assert (finding.title, finding.count) == ("x of 8 files", 8)
    texts = ["1 of x", "2 of x", "1 of x", "2 of x", "1 of x"]
    assert [(one.where, one.text) for one in finding.evidence] == [("log", text) for text in texts]


def test_a_text_is_the_evidence_of_a_rule_with_a_place():
    (finding,) = apply_rules([rule(str, where="log")], facts=7)
    assert [(one.where, one.text) for one in finding.evidence] == [("log", "7")]


def test_each_match_gives_a_finding_and_overrides_the_template():
    cases = [
        Match(PLACES, {"value": 1}, ("- {old}",), count=1),
        Match(level="note", certainty="possible", values={"value": 2}),
    ]
    first, second = apply_rules([rule(lambda facts: cases, do=(Step("then {value}"),))], facts=0)
    assert (first.title, first.do) == ("1 of 1 file", ("- {old}", "then 1"))
    assert (second.level, second.certainty, second.count) == ("note", "possible", 1)


@pytest.mark.parametrize(
    ("version", "certainty"),
    [((0, 17), None), ((0, 18), "certain"), ((0, 20), None), (None, "likely")],
)
def test_a_rule_holds_for_its_releases_and_is_unsure_without_one(version, certainty):
    row = rule(lambda facts: "x", since=(0, 18), until=(0, 20))
    findings = apply_rules([row], 0, version)
    assert [finding.certainty for finding in findings] == ([certainty] if certainty else [])


def test_a_template_without_places_gives_nothing():
    row = FindingTemplate("id", "note", "{count:linear} of {name}")
    assert row.at([], name="x") == []
    assert row.at(PLACES, name="x")[0].title == "2 linears of x"


def test_a_count_formats_itself_with_its_noun():
    assert f"{Count(1):weight file}, {Count(2000):linear}, {Count(2000):,}, {Count(3)}" == (
        "1 weight file, 2000 linears, 2,000, 3"
    )


TABLE = """
[slow]
level = "slow"
title = "{value} is slow"
until = "0.18"

[slow-again]
id = "slow"
level = "note"
title = "{count:file}"
where = "log"
"""


def test_a_table_gives_its_rules_in_order_with_their_conditions(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(TABLE)
    rules = read_rules(path, {"slow": str, "slow-again": lambda facts: [1, 2]})
    assert (rules[0].id, rules[0].level, rules[0].until) == ("slow", "slow", (0, 18))
    findings = apply_rules(rules, 7, (0, 17))
    assert [(one.id, one.title) for one in findings] == [("slow", "7 is slow"), ("slow", "2 files")]


def test_a_row_without_a_condition_and_a_condition_without_a_row_are_errors(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(TABLE)
    with pytest.raises(KeyError, match="slow-again"):
        read_rules(path, {"slow": str})
    with pytest.raises(ValueError, match=r"rules.toml has no row for fast\."):
        read_rules(path, {"slow": str, "slow-again": str, "fast": str})


def test_steps_are_expanded_and_unknown_ones_are_errors(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text('[a]\ndo = ["one", "$more"]\n')
    steps = {"more": ["$two", "three"], "two": "two"}
    assert read_rows(path, steps)["a"]["do"] == (Step("one"), Step("two"), Step("three"))
    with pytest.raises(KeyError, match="more"):
        read_rows(path)
