"""Scoring of answers, likelihood choices, and the comparison of two models' outcomes."""

import math
import time
from random import Random

import pytest

from salient.core.errors import CalibrationError
from salient.validate.tasks import scoring
from salient.validate.tasks.comparison import TaskOutcome, compare
from salient.validate.tasks.result import TaskResult
from salient.validate.tasks.scoring import Example, Match, choose, last_number, score


def written(match: Match, *expected: str, kind: str = "sums") -> Example:
    return Example("Q", kind, expected, match, (), None, "mine:1")


def chosen(*choices: str, answer: int = 0) -> Example:
    return Example("Q", "facts", (choices[answer],), "choice", choices, answer, "mine:1")


@pytest.mark.parametrize(
    ("match", "expected", "answer", "right"),
    [
        ("exact", "Paris", " paris\n", True),
        ("exact", "Paris", "Paris.", False),
        ("exact", "Straße", "STRASSE", True),
        ("contains", "Paris", "It is PARIS, of course", True),
        ("contains", "Paris", "It is Pari", False),
        ("contains", "Paris", "", False),
        ("regex", r"^\s*\d+ kg$", " 12 kg", True),
        ("regex", r"^\d+ kg$", "about 12 kg", False),
        ("regex", "É", "café É", True),
        ("numeric", "12", "4 + 8 = 12", True),
        ("numeric", "12", "12, not 13", False),
        ("numeric", "0.75", "3/4", True),
        ("numeric", "1,250", "It costs $1250.00.", True),
        ("numeric", "3.1415926", "3.1415927", True),
        ("numeric", "3.1415926", "3.14", False),
        ("numeric", "0", "0.0", True),
        ("numeric", "5", "none", False),
    ],
)
def test_a_written_answer_is_scored_by_its_match(match, expected, answer, right):
    assert score(written(match, expected), answer) is right


@pytest.mark.parametrize("match", ["exact", "contains", "regex", "numeric"])
def test_any_expected_answer_is_right(match):
    example = written(match, "7", "8")
    assert score(example, "8")
    assert not score(example, "9")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10-5", 5),
        ("x = -5", -5),
        ("\N{MINUS SIGN}5", -5),
        ("1,234,567.5 people", 1234567.5),
        ("2,4,6,8", 8),
        ("1,2345", 2345),
        ("on 3/4/2020", 2020),
        ("-1/2", -0.5),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("so...42", 42),
        ("42.", 42),
        ("18km", 18),
        ("50%", 50),
        (r"\boxed{42}", 42),
        ("gpt4", None),
        ("1/0", None),
        ("9" * 1000, None),
        ("", None),
        ("seven", None),
    ],
)
def test_the_last_number_is_read_as_a_person_reads_it(text, number):
    assert last_number(text) == number


def test_a_number_is_read_back_from_every_way_of_writing_it():
    rng = Random(1)
    for _ in range(300):
        number = rng.choice((rng.randint(-(10**9), 10**9), rng.uniform(-1e4, 1e4)))
        for text in (str(number), f"{number:,}", f"We get {number}.", f"{number:.12e}"):
            assert math.isclose(last_number(text) or 0, number, rel_tol=1e-9), text


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Paris", True),
        (" paris is it", True),
        ("B", True),
        ("b", True),
        ("(B) Paris", True),
        ("B.", True),
        ("B: it is", True),
        ("A", False),
        ("Parisian", False),
        ("Better ask", False),
        ("B is", False),
        ("", False),
        ("(", False),
        ("E)", False),
    ],
)
def test_a_choice_is_the_text_or_the_letter_that_comes_first(answer, right):
    assert score(chosen("Rome", "Paris", "Bonn", answer=1), answer) is right


@pytest.mark.parametrize(
    ("answer", "place"), [("1", 0), ("12", 1), ("1.5", 2), ("1.", 0), ("125", None), ("12.5", None)]
)
def test_a_choice_does_not_match_the_start_of_a_longer_one(answer, place):
    right = [score(chosen("1", "12", "1.5", answer=n), answer) for n in range(3)]
    assert right == [n == place for n in range(3)]


def test_a_pattern_that_backtracks_forever_is_stopped(monkeypatch):
    monkeypatch.setattr(scoring, "PATIENCE", 0.5)
    started = time.monotonic()
    with pytest.raises(
        CalibrationError, match=r"mine:1: the search for .* did not end within 0\.5 s"
    ):
        score(written("regex", "(a+)+$"), "a" * 60 + "b")
    assert time.monotonic() - started < 10


def test_the_likeliest_choice_is_chosen():
    assert choose([-5.0, -2.0, -9.0], [1, 1, 1], normalized=False) == 1


def test_a_longer_choice_wins_by_its_likelihood_a_byte():
    logprobs, lengths = [-4.0, -6.0], [2, 12]
    assert choose(logprobs, lengths, normalized=False) == 0
    assert choose(logprobs, lengths, normalized=True) == 1


@pytest.mark.parametrize("normalized", [False, True])
def test_of_equal_choices_the_first_is_chosen(normalized):
    assert choose([-3.0, -2.0, -2.0], [4, 4, 4], normalized=normalized) == 1
    assert choose([-math.inf, -math.inf], [4, 4], normalized=normalized) == 0


@pytest.mark.parametrize("normalized", [False, True])
def test_a_choice_without_a_number_is_never_chosen_over_one_with(normalized):
    assert choose([math.nan, -900.0], [1, 1], normalized=normalized) == 1


def outcomes(*rows: tuple[str, bool]) -> list[TaskOutcome]:
    return [TaskOutcome(answer, correct) for answer, correct in rows]


EXAMPLES = [written("exact", "1", kind=kind) for kind in ("a", "a", "a", "b", "b")]
REFERENCE = outcomes(("1", True), ("1", True), ("2", False), ("x", False), ("x", False))
QUANTIZED = outcomes(("1", True), ("3", False), ("1", True), ("x ", False), ("y", False))


def test_flips_are_reported_in_both_directions_with_both_answers():
    comparison = compare(EXAMPLES, REFERENCE, QUANTIZED)
    assert [(f.direction, f.reference, f.quantized) for f in comparison.flips] == [
        ("lost", "1", "3"),
        ("gained", "2", "1"),
    ]


def test_equal_accuracy_does_not_hide_flips():
    total = compare(EXAMPLES, REFERENCE, QUANTIZED).total
    assert total.retention == 1
    assert (total.lost, total.gained) == (1, 1)


def test_wrong_answers_that_differ_only_in_white_space_have_not_changed():
    assert compare(EXAMPLES, REFERENCE, QUANTIZED).total.changed == 1


def test_a_kind_that_the_reference_never_gets_right_has_no_retention():
    _, kind = compare(EXAMPLES, REFERENCE, QUANTIZED).kinds
    assert (kind.kind, kind.count, kind.retention) == ("b", 2, None)


def test_kinds_add_up_to_the_total():
    rng = Random(2)
    examples = [written("exact", "1", kind=rng.choice("abc")) for _ in range(60)]
    examples += [chosen("x", "y", "z", "w") for _ in range(20)]
    one, two = (
        [TaskOutcome(rng.choice("123"), rng.random() < 0.6) for _ in examples] for _ in range(2)
    )
    comparison = compare(examples, one, two)
    for name in ("count", "right_reference", "right_quantized", "lost", "gained", "changed"):
        assert getattr(comparison.total, name) == sum(
            getattr(kind, name) for kind in comparison.kinds
        )
    assert comparison.total.right_quantized - comparison.total.right_reference == (
        comparison.total.gained - comparison.total.lost
    )
    assert comparison.total.chance == pytest.approx(20 * 0.25 / 80)
    assert len(comparison.flips) == comparison.total.lost + comparison.total.gained


def test_the_result_has_every_flip_and_kind():
    figures = TaskResult.of(["mine"], compare(EXAMPLES, REFERENCE, QUANTIZED), {}).to_dict()
    assert set(figures["kinds"]) == {"a", "b"}
    assert [flip["id"] for flip in figures["flips"]] == ["mine:1", "mine:1"]
    assert figures["accuracy_reference"] == pytest.approx(2 / 5)
