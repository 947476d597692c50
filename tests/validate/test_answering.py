"""An engine answers examples, and requests of lm-evaluation-harness: as the model alone would."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.engines import never_dense, opened
from helpers.tolerance import TOY_LOGIT, logits_rounding, unit_roundoff
from helpers.toy_models import byte_tokenizer
from salient.core.errors import CalibrationError, MissingExtra
from salient.models.model_folder import load_dequantized
from salient.runtime.engine import Engine
from salient.runtime.sampling_params import SamplingParams
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import open_pair
from salient.validate.tasks.answering import (
    SLOTS,
    Examinee,
    TaskQuestion,
    answer_questions,
    encode_question,
    first_line,
    outcome,
    slots_that_fit,
    write_answers,
)
from salient.validate.tasks.lm_eval import EngineModel, find_tasks, read_samples
from salient.validate.tasks.scoring import Example
from salient.validate.tasks.task_sets import read_tasks

NEW = 12  # tokens of a written answer


def choice(prompt: str, *choices: str, answer: int = 0) -> Example:
    return Example(prompt, "toy", (choices[answer],), "choice", choices, answer, f"toy:{prompt}")


def written(prompt: str, expected: str = "x") -> Example:
    return Example(prompt, "toy", (expected,), "exact", (), None, f"toy:{prompt}")


EXAMPLES = [
    choice("The cat sat on the", "mat", "a dog and a cat", "x"),
    written("One two three"),
    choice("One and two ", "2", "three"),
    written("Count:\n1 2 3\n4 5 6\n"),
    written("One two four  "),
    choice("The cat sat in the", "house", "hut"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dense products; and garbage waits, whose collection takes longer than the toys do."""
    never_dense(monkeypatch)
    monkeypatch.setattr("salient.runtime.load_engine.release_memory", lambda: None)


@cache
def engine_of(folder: Path) -> Engine:
    return opened(folder, slots=4, context_length=128).engine


def questions_of(*examples: Example) -> list[TaskQuestion]:
    return [encode_question(example, byte_tokenizer()) for example in examples]


def test_examples_are_answered_together_as_alone(toy):
    engine = engine_of(toy)
    together = answer_questions(engine, questions_of(*EXAMPLES), NEW)
    alone = [
        answer_questions(engine, questions_of(example), NEW).answers[0] for example in EXAMPLES
    ]
    assert together.answers == alone
    backwards = answer_questions(engine, questions_of(*EXAMPLES[::-1]), NEW).answers
    assert backwards == alone[::-1]
    assert together.new_tokens > 0
    assert together.prompt_tokens > max(len(e.prompt) for e in EXAMPLES)


def test_the_choice_with_the_largest_sum_wins_whatever_its_length(toy):
    """Sums, not sums by length: among these, the two differ."""
    model, tokenizer = load_dequantized(str(toy))[0], byte_tokenizer()
    choices = ("a", "bird", "a dog and a cat", "xyz")
    examples = [choice(f"{start} sat on the", *choices) for start in ("Cat", "A dog", "It", "Z")]
    answers = answer_questions(engine_of(toy), questions_of(*examples), NEW).answers
    rules = []
    for example, answer in zip(examples, answers, strict=True):
        sums = []
        for text in example.continuations:
            ids = torch.tensor([tokenizer(example.context + text).input_ids])
            with torch.no_grad():
                rows = model(ids).logits[0, len(example.context) - 1 : -1].log_softmax(-1)
            sums.append(rows[range(len(text)), ids[0, len(example.context) :]].sum().item())
        by_length = [value / len(text) for value, text in zip(sums, choices, strict=True)]
        assert answer == choices[sums.index(max(sums))]
        rules.append(choices[by_length.index(max(by_length))] == answer)
    assert not all(rules)


def test_a_written_answer_is_the_first_line_that_is_not_blank(toy):
    engine, tokenizer = engine_of(toy), byte_tokenizer()
    for number in range(5):
        prompt = f"Line {number}:"
        ids = tokenizer(prompt).input_ids
        text = engine.generate([ids], SamplingParams(NEW))[0].text
        (answer,) = answer_questions(engine, questions_of(written(prompt)), NEW).answers
        assert answer == first_line(text)
    assert first_line("\n \n 52 \nQuestion: 3") == first_line(" 52") == "52"
    assert first_line(" \n ") == ""


def test_writing_stops_where_it_is_done(toy):
    """The text so far decides; the others continue."""
    engine, tokenizer = engine_of(toy), byte_tokenizer()
    prompts = [tokenizer(text).input_ids for text in ("One", "Two", "Three")]
    sampling = SamplingParams(NEW, ignore_eos=True)
    whole = write_answers(engine, prompts, sampling, lambda _: False)
    assert [len(each.tokens) for each in whole] == [NEW] * 3
    cut = write_answers(
        engine, prompts, SamplingParams(NEW, ignore_eos=True), lambda text: len(text) >= 3
    )
    assert not engine.busy
    for short, long in zip(cut, whole, strict=True):
        assert short.tokens == long.tokens[: len(short.tokens)]
        assert 3 <= len(short.text) < len(long.text)


def test_an_resultis_the_choice_itself_or_scored_by_its_match():
    example = choice("One and", "two", "too", answer=1)
    assert outcome(example, "too").correct
    assert not outcome(example, "two").correct
    assert outcome(written("Say", "Yes"), " yes ").correct


def test_text_without_tokens_is_an_error_that_names_the_example(monkeypatch):
    tokenizer = byte_tokenizer()
    monkeypatch.setattr("salient.runtime.loglikelihood.encode", lambda *_: [])
    with pytest.raises(CalibrationError, match=r"toy:One: 'two' has no tokens|toy:One: ' two'"):
        encode_question(choice("One", "two", "three"), tokenizer)
    monkeypatch.setattr("salient.validate.tasks.answering.encode", lambda *_: [])
    with pytest.raises(CalibrationError, match=r"toy:One: the prompt has no tokens"):
        encode_question(written("One"), tokenizer)


@pytest.mark.parametrize("name", ["arithmetic", "code", "knowledge", "language"])
def test_bundled_prompts_need_the_positions_of_their_tokens(name):
    for each in questions_of(*read_tasks(name)[:4]):
        longest = max(map(len, each.example.continuations), default=NEW)
        assert each.positions(NEW) == len(each.example.context) + longest


# An examinee


@pytest.fixture
def examinee(toy, tmp_path) -> Examinee:
    return Examinee(
        open_pair(str(toy), str(toy), "cpu").reference, ValidationCache(tmp_path), "cpu", 96
    )


def test_a_model_with_cached_answers_is_not_opened(examinee, tmp_path):
    questions = questions_of(*EXAMPLES)
    answer = lambda engine: answer_questions(engine, questions, NEW)  # noqa: E731
    first = examinee.part("toy", {"n": 1}, answer)
    assert examinee.throughput.cached == 0
    assert examinee.throughput.tokens_a_second > 0
    again = Examinee(examinee.side, ValidationCache(tmp_path), "cpu", 96)
    assert again.part("toy", {"n": 1}, answer) == first
    assert again._opened is None
    assert again.throughput.cached == again.throughput.parts == 1
    assert again.throughput.seconds == examinee.throughput.seconds
    assert "PyTorch" in again.throughput.runs_as


def test_short_memory_limits_the_sequences_at_once(examinee, monkeypatch):
    assert slots_that_fit(examinee.side, "cpu", 96) == SLOTS
    weights = examinee.side.source.bytes_on_disk * 1.1
    slot = 4 * 2 * 2 * 16 * 10_000  # two blocks, two heads of 16 channels
    name = "salient.validate.tasks.answering.free_memory"
    monkeypatch.setattr(name, lambda _: int(weights + 2 * 3.5 * slot))
    assert slots_that_fit(examinee.side, "cpu", 10_000) == 3
    monkeypatch.setattr(name, lambda _: 0)
    assert slots_that_fit(examinee.side, "cpu", 10_000) == 1


# Requests of lm-evaluation-harness


class Request:
    def __init__(self, *args: Any):
        self.args = args


@pytest.fixture
def model(examinee) -> EngineModel:
    return EngineModel(examinee, lambda _: None)


def test_log_probabilities_have_the_order_of_the_requests(model, toy):
    whole = load_dequantized(str(toy))[0]
    context, other = model.tok_encode("The cat"), model.tok_encode("A")
    requests = [
        (None, ids, model.tok_encode(text))
        for text in (" sat", " s", " sat")
        for ids in (context, other)
    ]
    answers = model._loglikelihood_tokens(requests)
    for (_, ids, tokens), (logprob, greedy) in zip(requests, answers, strict=True):
        with torch.no_grad():
            rows = whole(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        storage = TOY_LOGIT * unit_roundoff(torch.float16)  # keys and values are kept in 16 bits
        rounding = 2 * (logits_rounding() + storage) * len(tokens)
        assert logprob == pytest.approx(rows[range(len(tokens)), tokens].sum().item(), abs=rounding)
        assert greedy == (rows.argmax(-1).tolist() == tokens)


def test_a_context_that_is_too_long_loses_its_beginning(model):
    tokens = model.tok_encode(" end")
    long = model.tok_encode("x" * 50 + "y" * 200)
    assert model.max_length == 96
    cut = long[-(97 - len(tokens)) :]
    pair = model._loglikelihood_tokens([(None, long, tokens), (None, cut, tokens)])
    assert pair[0] == pair[1]
    with pytest.raises(CalibrationError, match=r"continuation of 97 tokens; there is room for 1"):
        model._loglikelihood_tokens([(None, [5], [6] * 97)])


def test_written_answers_end_before_the_first_text_that_ends_them(model):
    options = {"until": [], "max_gen_toks": NEW, "do_sample": False}
    (whole,) = model.generate_until([Request("One two", options)])
    ends = [whole[5:7], whole[3:5]]
    texts = model.generate_until(
        [Request("One two", {**options, "until": until}) for until in (ends, ends[0], ["", "\0\0"])]
    )
    assert texts == [whole[: whole.index(ends[1])], whole[: whole.index(ends[0])], whole]
    assert model.generate_until([Request("One two", {"max_tokens": 1})])[0] == whole[:1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_sample": True, "temperature": 0.7}, "drawn at random"),
        ({}, r"requests 256 new tokens; the model has 96 positions"),
    ],
)
def test_requests_that_are_not_comparable_are_refused(model, options, message):
    with pytest.raises(CalibrationError, match=message):
        model.generate_until([Request("One", options)])


def sample(number: int, **changes: Any) -> dict[str, Any]:
    """As the library logs a multiple choice."""
    return {
        "doc_id": number,
        "doc": {},
        "target": 1,
        "arguments": [("Sky is", " blue"), ("Sky is", " green and blue")],
        "resps": [],
        "filtered_resps": [(-4.0, False), (-6.0, False)],
        "filter": "none",
        "metrics": ["acc", "acc_norm"],
        "doc_hash": "0",
        "acc": 0.0,
        "acc_norm": 1.0,
        **changes,
    }


def test_samples_become_examples_and_outcomes_by_the_metric_of_the_task():
    answered, note = read_samples("sky", [sample(3), sample(4, acc_norm=0.0)])
    (example, result), (_, other) = answered
    assert "right by lm-eval's acc_norm" in note
    assert (example.id, example.kind, example.prompt) == ("sky:3", "sky", "Sky is")
    assert (example.expected, example.chance) == (("green and blue",), 0.5)
    assert (result.answer, result.correct, other.correct) == ("green and blue", True, False)


def test_only_the_first_filter_counts_and_texts_are_answers_too():
    rows = [
        {**sample(1), "arguments": [("2 + 2 =", {})], "filtered_resps": ["4"], "target": "4"},
    ]
    rows = [{k: v for k, v in row.items() if not k.startswith("acc")} for row in rows]
    both = [{**rows[0], "exact_match": 1.0}, {**rows[0], "exact_match": 0.0, "filter": "loose"}]
    ((example, result),), _ = read_samples("sums", both)
    assert (result.answer, result.correct, example.expected, example.chance) == (
        "4",
        True,
        ("4",),
        0,
    )
    with pytest.raises(CalibrationError, match=r"sums does not say .* \(it has perplexity\)"):
        read_samples("sums", [{**rows[0], "perplexity": (-3.2, 5)}])


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="lm-eval is installed here")
def test_tasks_of_a_missing_library_name_the_extra():
    with pytest.raises(MissingExtra, match=r"pip install 'salient-awq\[eval\]'"):
        find_tasks(["hellaswag"])
