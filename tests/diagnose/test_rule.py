"""Rules: what a condition returns, and the findings that follow."""

import pytest

from salient.diagnose.rule import Count, FindingTemplate, Match, Rule, apply_rules

PLACES = [("a.json: x", "1"), ("b.json: x", "2")]


def rule(when, **fields):
    return Rule("id", "error", "{value} of {count:file}", when, **fields)


@pytest.mark.parametrize("outcome", [False, None, "", [], ()])
def test_an_empty_outcome_gives_no_finding(outcome):
    assert apply_rules([rule(lambda facts: outcome)], facts=0) == []


def test_a_text_fills_the_braces():
    (finding,) = apply_rules([rule(str, why="{value}.", do=("use {value}",))], facts=7)
    assert (finding.title, finding.matters, finding.do) == ("7 of 1 file", "7.", ("use 7",))


def test_places_become_evidence_and_their_number_the_count():
    (finding,) = apply_rules([rule(lambda facts: PLACES * 4)], facts=0, values={"value": "x"})
    assert (finding.title, finding.count) == ("x of 8 files", 8)
    assert [(one.where, one.text) for one in finding.evidence] == (PLACES * 4)[:5]


def test_each_match_gives_a_finding_and_overrides_the_template():
    cases = [
        Match(PLACES, {"value": 1}, ("- {old}",), count=1),
        Match(level="note", certainty="possible", values={"value": 2}),
    ]
    first, second = apply_rules([rule(lambda facts: cases, do=("then {value}",))], facts=0)
    assert (first.title, first.do) == ("1 of 1 file", ("- {old}", "then 1"))
    assert (second.level, second.certainty, second.count) == ("note", "possible", 1)


@pytest.mark.parametrize(
    ("version", "certainty"),
    [((0, 17), None), ((0, 18), "certain"), ((0, 20), None), (None, "likely")],
)
def test_a_rule_holds_for_its_releases_and_is_unsure_without_one(version, certainty):
    row = rule(lambda facts: "x", since=(0, 18), until=(0, 20))
    found = apply_rules([row], 0, version)
    assert [finding.certainty for finding in found] == ([certainty] if certainty else [])


def test_a_template_without_places_gives_nothing():
    row = FindingTemplate("id", "note", "{count:linear} of {name}")
    assert row.at([], name="x") == []
    assert row.at(PLACES, name="x")[0].title == "2 linears of x"


def test_a_count_formats_itself_with_its_noun():
    assert f"{Count(1):weight file}, {Count(2000):linear}, {Count(2000):,}, {Count(3)}" == (
        "1 weight file, 2000 linears, 2,000, 3"
    )
