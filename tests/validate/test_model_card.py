"""The model card takes a validation's figures over, and nothing else in it changes."""

import pytest

from salient.validate.model_card import section, update_card, with_section

DATA = {
    "date": "2026-11-21",
    "verdict": {"policy": "lenient", "verdict": "pass"},
    "likelihood": {
        "all": {
            "tokens": 8192,
            "kl": 0.0931,
            "top1": 0.84,
            "perplexity_reference": 20.41,
            "perplexity_quantized": 22.49,
        }
    },
    "tasks": {
        "kinds": {"code": {"count": 120, "accuracy_reference": 0.61, "accuracy_quantized": 0.6}}
    },
    "context": {"retrieval": {"count": 50, "reference": 40, "quantized": 38}},
}


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "README.md").write_text("# mine\n\nWords of mine.\n")
    (tmp_path / "salient.json").write_text("{}")
    return tmp_path


def test_the_card_holds_the_verdict_and_the_figures(checkpoint):
    assert "holds the figures" in update_card(checkpoint, DATA)
    card = (checkpoint / "README.md").read_text()
    assert card.startswith("# mine\n\nWords of mine.\n")
    for words in (
        "Policy `lenient`: **pass**, 2026-11-21.",
        "| KL (nats a token, 8192 tokens) | 0 | 0.0931 |",
        "| perplexity | 20.410 | 22.490 |",
        "| code (120 examples) | 61.0% | 60.0% |",
        "| facts found in long texts (of 50) | 40 | 38 |",
    ):
        assert words in card


def test_a_second_validation_takes_the_place_of_the_first(checkpoint):
    update_card(checkpoint, DATA)
    (checkpoint / "README.md").write_text((checkpoint / "README.md").read_text() + "\nAfter.\n")
    update_card(checkpoint, DATA | {"verdict": {"policy": "strict", "verdict": "fail"}})
    card = (checkpoint / "README.md").read_text()
    assert card.count("## Validation") == 1
    assert "**fail**" in card
    assert "**pass**" not in card
    assert card.startswith("# mine")
    assert card.rstrip().endswith("After.")


def test_what_could_not_be_measured_is_not_on_the_card():
    failed = {"error": "no memory"}
    written = section({**DATA, "likelihood": failed, "tasks": failed, "context": failed})
    assert "|" not in written
    assert "**pass**" in written


def test_the_card_of_another_tool_is_left_alone(checkpoint):
    (checkpoint / "salient.json").unlink()
    assert update_card(checkpoint, DATA) == ""
    assert (checkpoint / "README.md").read_text() == "# mine\n\nWords of mine.\n"


def test_a_card_that_cannot_be_written_is_said_and_whole(checkpoint):
    (checkpoint / "README.md.tmp").mkdir()
    assert "was not changed" in update_card(checkpoint, DATA)
    assert (checkpoint / "README.md").read_text() == "# mine\n\nWords of mine.\n"


def test_a_kind_cannot_break_the_table():
    kinds = {"a|b\n<script>`": DATA["tasks"]["kinds"]["code"]}
    line = next(
        x for x in section({"date": "", "tasks": {"kinds": kinds}}).splitlines() if "120" in x
    )
    assert line == "| a&#124;b<br>&#60;script&#62;&#96; (120 examples) | 61.0% | 60.0% |"


def test_marks_in_the_wrong_order_are_left_as_they_are():
    card = "<!-- salient validate: end --> x <!-- salient validate: begin -->"
    assert with_section(card, "new\n").startswith(card)
