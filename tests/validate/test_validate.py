"""A validation: a good checkpoint passes, a damaged one fails, nothing unsure passes."""

import json
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from helpers.faults import copied, edit
from helpers.toy_models import toy_folder
from salient import api
from salient.core.errors import CalibrationError, CheckpointError, RequestError
from salient.core.report import Report
from salient.validate import stages

SIZES = {"samples": 8, "sequence_length": 64, "device": "cpu"}
QUICK = {**SIZES, "context_lengths": None, "load_test": None}


@pytest.fixture(scope="module")
def checkpoint(toy, text, tmp_path_factory) -> Path:
    """The toy's checkpoint; do not change it."""
    out = tmp_path_factory.mktemp("validator") / "out"
    options = {"samples": 6, "sequence_length": 64, "calibration": str(text)}
    api.quantize(str(toy), str(out), scheme="w4-g32", **options)
    return out


@pytest.fixture
def tasks(tmp_path) -> str:
    path = tmp_path / "mine.jsonl"
    rows = [
        {"prompt": f"{n} and", "choices": ["a", "b"], "answer": n % 2, "kind": "pick"}
        for n in range(8)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def policy(tmp_path: Path, toml: str) -> str:
    path = tmp_path / "own.toml"
    path.write_text(toml)
    return str(path)


def damaged(checkpoint: Path, to: Path, block: int = 1) -> Path:
    """The checkpoint with the scales of one block's linear drawn again."""
    folder = copied(checkpoint, to)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        seeded = torch.Generator().manual_seed(0)
        scales = tensors[f"model.layers.{block}.mlp.down_proj.scales"]
        factor = torch.rand(scales.shape, generator=seeded) * 4
        scales.mul_(factor.to(scales.dtype))

    edit(folder, change)
    return folder


def validate(checkpoint: Path, reference: Path, **options: Any):
    arguments = {**QUICK, "tasks": None, **options}
    return api.validate(checkpoint, reference=reference, **arguments).report


def test_a_good_checkpoint_passes_and_a_damaged_one_fails_by_name(checkpoint, toy, text, tmp_path):
    own = policy(tmp_path, 'use = "upper"\n[likelihood]\nkl_max = 0.015\n')
    good = validate(checkpoint, toy, text=[str(text)], policy=own, attribute=True)
    assert good.data["verdict"]["verdict"] == "pass", good.lines
    assert (good.passed, good.data["verdict"]["exit_code"]) == (True, 0)
    bad = validate(
        damaged(checkpoint, tmp_path / "bad"), toy, text=[str(text)], policy=own, attribute=True
    )
    assert (bad.passed, bad.data["verdict"]["exit_code"]) == (False, 1)
    blocks = bad.data["attribution"]["blocks"]
    assert max(blocks, key=lambda block: block["kl"])["name"] == "model.layers.1"
    *damage, rule = bad.data["verdict"]["rules"]
    assert damage
    assert all(each["stage"] == "integrity" for each in damage)
    assert rule["passed"] is False
    assert rule["value"] > rule["bound"]


def test_the_whole_of_a_validation_is_in_its_data(checkpoint, toy, text, tasks, tmp_path):
    report = api.validate(
        str(checkpoint),
        reference=str(toy),
        text=[str(text)],
        tasks=[tasks],
        context_lengths=[128, 256],
        policy="lenient",
        report=str(tmp_path / "report"),
        **SIZES,
    ).report
    data = report.data
    assert {"likelihood", "tasks", "context", "load", "verdict", "memory", "machine"} <= set(data)
    stages_judged = {rule["stage"] for rule in data["verdict"]["rules"]}
    assert stages_judged == {"likelihood", "tasks", "context", "load"}
    assert data["verdict"]["left_out"] == []
    assert data["memory"]["checkpoint_bytes"] < data["memory"]["reference_bytes"]
    parts = sum(part["bytes"] for part in data["memory"]["parts"])
    assert parts == pytest.approx(data["memory"]["checkpoint_bytes"], rel=0.1)
    for name in ("report.html", "report.md", "report.json"):
        assert (tmp_path / "report" / name).stat().st_size > 500
    document = json.loads((tmp_path / "report" / "report.json").read_text())
    assert document["verdict"]["verdict"] == data["verdict"]["verdict"]
    assert "## Validation" in (checkpoint / "README.md").read_text()
    for table, width in product(report.tables, (80, 120)):
        text = StringIO()
        Report({}, [table]).show(Console(file=text, width=width))
        assert all(len(line) <= width for line in text.getvalue().splitlines()[1:])
        cells = {word for row in table.rows for cell in row for word in cell.split()}
        assert all(word in text.getvalue() for word in cells if len(word) < 20)


def test_a_stage_that_is_left_out_is_named_and_not_judged(checkpoint, toy, text):
    report = validate(checkpoint, toy, text=[str(text)], policy="lenient")
    assert set(report.data["verdict"]["left_out"]) == {"tasks", "context", "load"}
    assert any("Not selected, so not judged: tasks, context, load" in x for x in report.lines)


def test_a_stage_that_breaks_is_undecided_and_the_others_are_measured(
    checkpoint, toy, text, monkeypatch, tmp_path
):
    def breaks(*_):
        raise CheckpointError("the file went away")

    row = stages.STAGES["likelihood"]
    monkeypatch.setitem(stages.STAGES, "likelihood", stages.Stage(row.check, breaks, 1))
    own = policy(tmp_path, "[likelihood]\nkl_max = 1.0\ntop1_min = 0.0\n")
    report = validate(checkpoint, toy, text=[str(text)], policy=own, attribute=True)
    assert report.data["verdict"]["exit_code"] == 2
    assert report.data["likelihood"] == {"error": "the file went away"}
    assert [rule["passed"] for rule in report.data["verdict"]["rules"]] == [None, None]
    assert "blocks" in report.data["attribution"]
    assert any("could not be measured: the file went away" in line for line in report.lines)


def test_a_resumed_run_ends_with_the_same_figures(checkpoint, toy, text, monkeypatch):
    whole = validate(checkpoint, toy, text=[str(text)], policy="lenient").data
    calls = []
    measure = stages.STAGES["likelihood"].measure
    monkeypatch.setattr(
        "salient.validate.likelihood.measure.answers_of_both", lambda *a: calls.append(a) or []
    )
    assert measure is not None
    again = validate(checkpoint, toy, text=[str(text)], policy="lenient").data
    assert calls == []
    assert again["likelihood"]["texts"] == whole["likelihood"]["texts"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policy": "strickt"}, RequestError, "No policy 'strickt'. Did you mean strict"),
        ({"tasks": ("/none.jsonl",)}, CalibrationError, "Cannot read the task file"),
        ({"context_lengths": [0]}, RequestError, "--context-lengths 0 is out of range"),
        ({"context_lengths": 100_000}, CalibrationError, "100000"),
        ({"load_test": "ftp://x"}, RequestError, "not an http or https address"),
        ({"text": ("/none.txt",)}, CalibrationError, "No text file '/none.txt'"),
        ({"protocol": "clasic"}, CalibrationError, "No protocol 'clasic'"),
        ({"report": "/dev/null/x"}, RequestError, "/dev/null/x"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_measured(
    options, error, message, checkpoint, toy, monkeypatch
):
    def never(*_):
        raise AssertionError("it measured")

    for name, row in stages.STAGES.items():
        monkeypatch.setitem(stages.STAGES, name, stages.Stage(row.check, never, 1))
    with pytest.raises(error, match=message):
        validate(checkpoint, toy, **options)


def test_a_damaged_task_file_is_named_by_its_line(checkpoint, toy, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "expected": "b"}\n{"prompt": "a"\n')
    with pytest.raises(CalibrationError, match=r"bad.jsonl, line 2: not JSON"):
        validate(checkpoint, toy, tasks=(str(path),))
    path.write_text("\n\n")
    with pytest.raises(CalibrationError, match="holds no example"):
        validate(checkpoint, toy, tasks=(str(path),))


def test_a_reference_of_another_vocabulary_is_refused(checkpoint, tmp_path):
    other = toy_folder(tmp_path / "other", vocab_size=300)
    with pytest.raises(CheckpointError, match="vocabulary is 320 in the checkpoint and 300"):
        validate(checkpoint, other)
