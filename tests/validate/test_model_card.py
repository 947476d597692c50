"""The model card gets a validation's figures, and nothing else in it changes."""

from dataclasses import replace

import pytest

from helpers.report_data import judged, toy_result
from salient.validate.model_card import section, update_card, with_section
from salient.validate.policy.policy import Policy
from salient.validate.stage import UnmeasuredStage

CARD = "# mine\n\nMy own text.\n"


@pytest.fixture(scope="module")
def result():
    return toy_result()


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "salient.json").write_text("{}")
    return tmp_path


def test_the_card_has_the_verdict_and_the_figures(checkpoint, result):
    assert "holds the figures" in update_card(checkpoint, result)
    card = (checkpoint / "README.md").read_text()
    assert card.startswith(CARD)
    reference, quantized = result.context.retrieval.totals
    code = next(t for t in result.tasks.comparison.kinds if t.kind == "code")
    for text in (
        "Policy `balanced`: **pass**, 2026-11-21.",
        "| KL (nats a token, 30720 tokens) | 0 | 0.1000 |",
        "| perplexity | 15.100 | 16.036 |",
        f"| code (100 examples) | {code.right_reference}.0% | {code.right_quantized}.0% |",
        f"| facts found in long texts (of 160) | {reference} | {quantized} |",
    ):
        assert text in card


def test_a_second_validation_replaces_the_first(checkpoint, result):
    update_card(checkpoint, result)
    (checkpoint / "README.md").write_text((checkpoint / "README.md").read_text() + "\nAfter.\n")
    strict = Policy("strict", bounds={("likelihood", "kl_max"): 0.01})
    update_card(checkpoint, judged(result, strict))
    card = (checkpoint / "README.md").read_text()
    assert card.count("## Validation") == 1
    assert "Policy `strict`: **fail**" in card
    assert "**pass**" not in card
    assert card.startswith("# mine")
    assert card.rstrip().endswith("After.")


def test_unmeasured_stages_are_not_on_the_card(result):
    missing = {name: UnmeasuredStage(name, "no memory") for name in ("likelihood", "tasks")}
    text = section(replace(result, **missing, context=None))
    assert "|" not in text
    assert "**pass**" in text


def test_the_card_of_another_tool_is_not_changed(checkpoint, result):
    (checkpoint / "salient.json").unlink()
    assert update_card(checkpoint, result) == ""
    assert (checkpoint / "README.md").read_text() == CARD


def test_a_card_that_cannot_be_written_is_reported_and_whole(checkpoint, result):
    (checkpoint / "README.md.tmp").mkdir()
    assert "was not changed" in update_card(checkpoint, result)
    assert (checkpoint / "README.md").read_text() == CARD


def test_the_name_of_a_kind_cannot_break_the_table(result):
    first, *others = result.tasks.comparison.kinds
    kinds = (replace(first, kind="a|b\n<script>`"), *others)
    comparison = replace(result.tasks.comparison, kinds=kinds)
    text = section(replace(result, tasks=replace(result.tasks, comparison=comparison)))
    assert "\n| a&#124;b<br>&#60;script&#62;&#96; (100 examples) | " in text


def test_marks_in_the_wrong_order_stay():
    card = "<!-- salient validate: end --> x <!-- salient validate: begin -->"
    assert with_section(card, "new\n").startswith(card)
