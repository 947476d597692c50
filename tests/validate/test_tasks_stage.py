"""The tasks stage: two models on the same examples, answers cached and compared."""

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.engines import never_dense, opened
from helpers.rtn_checkpoints import rounded_toy
from helpers.toy_models import byte_tokenizer
from salient.core.errors import CalibrationError, MissingExtra, RequestError
from salient.core.intervals import mcnemar, ratio
from salient.core.progress import Progress, silent
from salient.validate.cache import ValidationCache
from salient.validate.model_pair import ModelPair, open_pair
from salient.validate.policy.policy import THRESHOLDS, read_policy
from salient.validate.policy.verdict import judge
from salient.validate.render import render_stage
from salient.validate.stage import StageResult
from salient.validate.tasks import answering, scoring
from salient.validate.tasks import measure as stage
from salient.validate.tasks.answering import answer_questions, encode_question, outcome
from salient.validate.tasks.comparison import AnswerFlip, Tally, TaskComparison
from salient.validate.tasks.measure import TasksRequest, check_tasks, measure_tasks
from salient.validate.tasks.result import TaskResult, retention_of
from salient.validate.tasks.task_sets import read_tasks

NOUNS = ("cat", "dog", "mat", "sun", "sky", "sea", "hat", "jam")
CHOICES, COUNTED = 24, 4
NEW = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference in model/, its 4-bit checkpoint in rounded/; do not change them."""
    folder = tmp_path_factory.mktemp("tasks")
    rounded_toy(folder)
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No dense products; and garbage waits, whose collection takes longer than the toys do."""
    never_dense(monkeypatch)
    for module in ("salient.validate.tasks.answering", "salient.runtime.load_engine"):
        monkeypatch.setattr(f"{module}.release_memory", lambda: None)


@pytest.fixture
def pair(folder: Path) -> ModelPair:
    return open_pair(str(folder / "rounded"), str(folder / "model"), "cpu")


@cache
def lines() -> list[dict[str, Any]]:
    """Choices of two words of equal length, in which the models differ; and some to write."""
    choices = [
        {
            "prompt": f"The {NOUNS[n % 8]} and the {NOUNS[n // 8]} see the",
            "choices": [NOUNS[(n + 3) % 8], NOUNS[(n + 5) % 8]],
            "answer": n * n // 3 % 2,
            "kind": "seeing",
        }
        for n in range(CHOICES)
    ]
    return choices + [
        {"prompt": f"Count to {n}:", "expected": str(n), "match": "contains", "kind": "counting"}
        for n in range(COUNTED)
    ]


def task_file(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "toy.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture
def request_(tmp_path: Path) -> TasksRequest:
    return TasksRequest((task_file(tmp_path, lines()),), max_new_tokens=NEW)


def measure(pair: ModelPair, request: TasksRequest, folder: Path, **how: Any) -> StageResult:
    return measure_tasks(pair, request, ValidationCache(folder / "store", **how), silent)


def rights(model: Path, request: TasksRequest) -> list[bool]:
    """Which examples `model` gets right, answered here one by one."""
    engine, tokenizer = opened(model, context_length=128).engine, byte_tokenizer()
    return [
        outcome(
            each, answer_questions(engine, [encode_question(each, tokenizer)], NEW).answers[0]
        ).correct
        for each in read_tasks(request.sets[0])
    ]


def test_the_figures_are_those_of_the_two_models_one_by_one(pair, request_, folder, tmp_path):
    result = measure(pair, request_, tmp_path)
    reference, quantized = (rights(folder / name, request_) for name in ("model", "rounded"))
    assert result.to_dict()["count"] == CHOICES + COUNTED
    kinds = {"seeing": slice(CHOICES), "counting": slice(CHOICES, None), "all": slice(None)}
    for kind, rows in kinds.items():
        figures = result.to_dict() if kind == "all" else result.to_dict()["kinds"][kind]
        r, q = reference[rows], quantized[rows]
        assert figures["accuracy_reference"] == pytest.approx(sum(r) / len(r))
        assert figures["accuracy_quantized"] == pytest.approx(sum(q) / len(q))
        lost = sum(a and not b for a, b in zip(r, q, strict=True))
        gained = sum(b and not a for a, b in zip(r, q, strict=True))
        assert (figures["lost"], figures["gained"]) == (lost, gained)
        if figures["retention"] is not None:
            interval = ratio(q, r)
            assert figures["interval"] == pytest.approx([interval.low, interval.high])
    flipped = [r != q for r, q in zip(reference, quantized, strict=True)]
    assert len(result.to_dict()["flips"]) == sum(flipped) > 0
    assert 0 < sum(reference[:CHOICES]) < CHOICES


def test_the_measurements_are_those_of_a_policys_rules(pair, request_, tmp_path):
    result = measure(pair, request_, tmp_path)
    kinds = [m.kind for m in result.measurements()]
    assert kinds == ["seeing", "counting", "all"]
    names = {(t.stage, t.what) for t in THRESHOLDS}
    assert {(m.stage, m.what) for m in result.measurements()} <= names
    policy = replace(read_policy("lenient"), kinds={"seeing": 0.1}, use="middle", examples={})
    rules = judge(policy, result.measurements(), ["tasks"]).rules
    assert [rule.kind for rule in rules] == ["all", "seeing"]
    reason = "could not be measured: the reference is not above chance (54% of 24, chance 50%)"
    assert (rules[1].passed, rules[1].value) == (None, None)
    assert rules[1].reason.startswith(reason)


def test_a_stopped_run_resumes(pair, request_, tmp_path, monkeypatch):
    """Only missing parts are computed again, and the figures are those of an uninterrupted run."""
    monkeypatch.setattr(stage, "CHUNK", 10)
    whole = measure(pair, request_, tmp_path / "whole")

    class Stopped(Exception):
        pass

    def stop(done: int, total: int, doing: str, note: str) -> None:
        examples = CHOICES + COUNTED
        if doing.startswith("checkpoint") and done * 2 * examples >= total * (examples + 9):
            raise Stopped

    with pytest.raises(Stopped):
        measure_tasks(pair, request_, ValidationCache(tmp_path / "store"), Progress(stop))
    rest = measure(pair, request_, tmp_path, resume=True)
    spent = rest.to_dict()["throughput"]
    assert (spent["reference"]["kept"], spent["reference"]["parts"]) == (3, 3)
    assert (spent["quantized"]["kept"], spent["quantized"]["parts"]) == (1, 3)
    assert any("reference: 3 of 3 parts were answered by an earlier run" in n for n in rest.notes)
    for key in ("kinds", "flips", "accuracy_reference", "interval", "p_value"):
        assert rest.to_dict()[key] == whole.to_dict()[key]


def test_the_references_answers_serve_another_checkpoint(
    pair, request_, folder, tmp_path, monkeypatch
):
    measure(pair, request_, tmp_path)
    other = rounded_toy(tmp_path / "other", scheme="w4-g32-sym")
    again = open_pair(str(other), str(folder / "model"), "cpu")
    names = []
    load = type(again.reference).open_engine
    monkeypatch.setattr(
        type(again.reference),
        "open_engine",
        lambda side, options: (names.append(side.role), load(side, options))[1],
    )
    measure(again, request_, tmp_path)
    assert names == ["checkpoint"]
    measure(again, request_, tmp_path)
    assert names == ["checkpoint", "checkpoint"]  # no resume: the checkpoint answers again
    measure(again, request_, tmp_path, resume=True)
    assert len(names) == 2


def test_one_model_is_in_memory_at_a_time(pair, request_, tmp_path, monkeypatch):
    open_now = []
    load, close = answering.PairMember.open_engine, answering.Examinee.close

    def opening(side, options):
        assert not open_now
        open_now.append(side.role)
        return load(side, options)

    def closing(examinee):
        close(examinee)
        assert examinee._opened is None
        open_now.clear()

    monkeypatch.setattr(answering.PairMember, "open_engine", opening)
    monkeypatch.setattr(answering.Examinee, "close", closing)
    measure(pair, request_, tmp_path)


def test_a_model_without_room_is_an_unmeasured_stage(pair, request_, tmp_path, monkeypatch):
    monkeypatch.setattr("salient.validate.model_pair.free_memory", lambda _: 1000)
    result = measure(pair, request_, tmp_path)
    assert "Measure it on a larger machine" in result.to_dict()["error"]
    assert [m.kind for m in result.measurements()] == ["all", "seeing", "counting"]
    assert all(m.value is None and "larger machine" in m.why for m in result.measurements())
    verdict = judge(read_policy("lenient"), result.measurements(), ["tasks"])
    assert verdict.word == "could not measure"


def test_a_checkpoint_that_gives_no_numbers_never_passes(folder, request_, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (folder / "rounded").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"].fill_(torch.nan)
    save_file(weights, broken / "model.safetensors")
    pair = open_pair(str(broken), str(folder / "model"), "cpu")
    result = measure(pair, request_, tmp_path)
    assert all(m.value is None for m in result.measurements())
    assert "error" in result.to_dict()


def test_a_limit_takes_the_first_of_each_kind(pair, request_, tmp_path):
    result = measure(pair, replace(request_, limit=3), tmp_path)
    assert {kind: each["count"] for kind, each in result.to_dict()["kinds"].items()} == {
        "seeing": 3,
        "counting": 3,
    }
    assert any("the reference solves none of 3" in note for note in result.to_dict()["notes"])


def test_a_pattern_that_takes_too_long_is_an_error_that_names_its_example(
    pair, tmp_path, monkeypatch
):
    row = {"prompt": "Say a", "expected": "(.*.*.*)*$x", "match": "regex", "kind": "slow"}
    monkeypatch.setattr(scoring, "PATIENCE", 1e-3)
    with pytest.raises(CalibrationError, match=r"toy:1: the search for"):
        measure(pair, TasksRequest((task_file(tmp_path, [row]),), max_new_tokens=NEW), tmp_path)


@pytest.mark.parametrize(
    ("changes", "row", "error", "message"),
    [
        ({"sets": ("nothing",)}, {}, CalibrationError, "No task set 'nothing'"),
        ({"sets": ()}, {}, RequestError, "No tasks"),
        ({"sets": ("lm-eval:",)}, {}, RequestError, "No tasks"),
        ({"sets": ("lm-eval:arc_easy",)}, {}, MissingExtra, r"salient-awq\[eval\]"),
        ({"limit": 0}, {}, RequestError, "0 examples"),
        ({"max_new_tokens": 0}, {}, RequestError, "0 new tokens"),
        (
            {},
            {"prompt": "x" * 505},
            CalibrationError,
            r"toy:1: its prompt has 505 tokens, an answer up to 8; the model has room for 512",
        ),
        ({}, {"kind": "all"}, CalibrationError, r"toy:1: the kind 'all'"),
        ({}, {"match": "regex", "expected": "("}, CalibrationError, "no regular expression"),
    ],
)
def test_an_invalid_request_is_refused_before_a_model_is_opened(
    pair, tmp_path, monkeypatch, changes, row, error, message
):
    if error is MissingExtra:
        monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr(answering.PairMember, "open_engine", None)
    rows = [{"prompt": "One", "expected": "two", **row}]
    request = TasksRequest((task_file(tmp_path, rows),), max_new_tokens=NEW)
    with pytest.raises(error, match=message):
        check_tasks(pair, replace(request, **changes))
    with pytest.raises(error, match=message):
        measure(pair, replace(request, **changes), tmp_path)


def test_a_set_alone_shares_its_answers_with_the_same_set_among_others(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "CHUNK", 2)
    few = TasksRequest(("language", "knowledge"), limit=3)
    measure(pair, few, tmp_path)
    alone = measure(pair, replace(few, sets=("knowledge",)), tmp_path, resume=True)
    assert {each["kept"] for each in alone.to_dict()["throughput"].values()} == {2}
    twice = measure(pair, replace(few, sets=("language", "language")), tmp_path, resume=True)
    assert twice.to_dict()["count"] == 3


# Notes on the counts


def tally(**counts: Any) -> Tally:
    defaults = {"right_reference": 0, "right_quantized": 0, "lost": 0, "gained": 0, "changed": 0}
    return Tally(**{"kind": "toy", "count": 200, "guessed": 50.0, **defaults, **counts})


def test_the_p_value_is_of_a_loss():
    lost = retention_of(tally(right_reference=100, right_quantized=92, lost=10, gained=2))
    assert lost.p_value == mcnemar(10, 2)
    assert lost.value == 0.92
    gained = retention_of(tally(right_reference=92, right_quantized=100, lost=2, gained=10))
    assert gained.p_value == 1


def test_a_reference_without_right_answers_has_no_retention():
    result = retention_of(tally(gained=3, right_quantized=3))
    assert (result.value, result.interval) == (None, None)
    assert result.why == "the reference solves none of 200: no retention"
    policy = replace(read_policy("lenient"), kinds={"toy": 0.5})
    assert judge(policy, [result], ["tasks"]).word == "could not measure"


@pytest.mark.parametrize(
    ("right", "count", "message"),
    [
        (50, 200, "the reference is not above chance (25% of 200, chance 25%)"),
        (0, 200, "the reference solves none of 200"),
        (30, 50, "only 50 examples, the interval is"),
        (150, 200, None),
    ],
)
def test_notes_explain_weak_figures(right, count, message):
    one = tally(right_reference=right, right_quantized=right, count=count, guessed=count / 4)
    comparison = TaskComparison(replace(one, kind="all"), (one,), ())
    notes = [n for n in TaskResult.of(["toy"], comparison, {}).notes if n.startswith("toy:")]
    assert len(notes) == (message is not None)
    assert all(message in note for note in notes)


def test_a_models_answer_moves_no_cursor():
    example = read_tasks("knowledge")[0]
    flip = AnswerFlip(example, "lost", "\x1b[2Jyes\n" + "y" * 999, "[bold]no")
    one = tally(right_reference=1, count=1)
    output = "\n".join(render_stage(TaskResult.of([], TaskComparison(one, (), (flip,)), {}))[1])
    assert "\x1b" not in output
    assert "[bold]no" in output
    assert len(max(output.splitlines(), key=len)) < 400
