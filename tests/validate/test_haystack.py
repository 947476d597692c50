"""Facts hidden in texts: where they lie, what they leave room for, and which answers are right."""

import re

import pytest

from salient.validate.context.haystack import (
    ANSWER_TOKENS,
    DEPTHS,
    PLACES,
    SUBJECTS,
    RetrievalProbe,
    is_right,
    make_probes,
)

BEGIN = [1]
FILLER = [ord(c) for c in "It was a dark and stormy night, and nobody was abroad. "]
LENGTHS = (1024, 4096, 8192)


def encode(text: str) -> list[int]:
    """A letter a token."""
    return [ord(letter) for letter in text]


def probes_of(*lengths: int, seed: int = 0) -> list[RetrievalProbe]:
    return make_probes(encode, FILLER, BEGIN, lengths, seed)


def text_of(probe: RetrievalProbe) -> str:
    return "".join(map(chr, probe.prompt))


def question_of(probe: RetrievalProbe) -> str:
    """What the question names."""
    return text_of(probe).rpartition("\n\n")[2]


def test_a_fact_is_in_its_text_once_and_its_question_ends_it():
    for probe in probes_of(*LENGTHS):
        text = text_of(probe)
        assert text.count(f"{question_of(probe)} {probe.code}.\n") == 1
        assert text.count(question_of(probe)) == 2
        assert question_of(probe).endswith(" is")
        assert probe.prompt[:1] == BEGIN


def test_prompt_and_answer_fill_the_length_exactly():
    longest = max(map(len, SUBJECTS))
    for probe in probes_of(*LENGTHS):
        size = len(probe.prompt) + ANSWER_TOKENS
        assert probe.length - longest < size <= probe.length


def test_facts_lie_at_their_depths():
    for probe in probes_of(4096):
        at = text_of(probe).index(f"{question_of(probe)} {probe.code}") / 4096
        assert at == pytest.approx(probe.depth, abs=0.03)
    assert [p.depth for p in probes_of(4096)] == list(DEPTHS)


def test_a_shorter_text_is_the_beginning_of_a_longer_one():
    probes = probes_of(*LENGTHS)
    texts = {p.length: text_of(p).rpartition("\n\n")[0] for p in probes}
    assert texts[4096].startswith(texts[1024])
    assert texts[8192].startswith(texts[4096])
    assert [p.length for p in probes] == sorted(p.length for p in probes)


@pytest.mark.parametrize("lengths", [LENGTHS, (600, 640, 700, 1000), (1000, 2100), (1000, 3300)])
@pytest.mark.parametrize("seed", range(5))
def test_facts_overlap_no_other_and_no_end(lengths, seed):
    probes = probes_of(*lengths, seed=seed)
    assert {p.length for p in probes} == set(lengths)
    for probe in probes:
        text = text_of(probe)[: -len(question_of(probe))]
        starts = sum(text.count(subject) for subject in SUBJECTS)
        assert starts == len(re.findall(r" is \d{4}\.\n\n", text))


def test_no_two_facts_are_alike():
    probes = probes_of(600, *range(1000, 9000, 500))
    assert len({question_of(p) for p in probes}) == len(probes) > 100
    assert len(PLACES) > len(SUBJECTS)


@pytest.mark.parametrize(("length", "count"), [(10, 0), (64, 0), (256, 1), (1024, 8), (2048, 10)])
def test_facts_leave_half_of_a_text_to_the_filler(length, count):
    probes = probes_of(length)
    assert abs(len(probes) - count) <= 1
    assert len(probes) * 56 <= length / 2 + 56


def test_probes_follow_their_seed():
    assert probes_of(1024) == probes_of(1024)
    assert {p.code for p in probes_of(1024)}.isdisjoint(p.code for p in probes_of(1024, seed=1))


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" 4718.", True),
        (" 4718, and then 9999", True),
        (": 4718", True),
        (" 47180.", False),
        (" 471", False),
        (" 1234 or 4718", False),
        (" four", False),
        (" ٤٧١٨", False),
        ("", False),
    ],
)
def test_an_answer_is_right_if_its_first_number_is_the_code(answer, right):
    assert is_right(answer, "4718") is right
