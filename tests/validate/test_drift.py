"""Drift: a text of another kind than the calibration is far from it, one of the same kind is near.

What the calibration was is read from the checkpoint, and not believed where it cannot be checked.
"""

import re
from pathlib import Path

import pytest
import torch

from helpers.evidence_files import rewrite_evidence
from helpers.faults import copied
from helpers.runs import run
from helpers.tolerance import worst
from salient.core.model_files import read_json
from salient.core.progress import silent
from salient.models import token_packing
from salient.validate.attribution.drift import (
    drift_figures,
    find_calibration,
    halves,
    measure_drift,
)
from salient.validate.attribution.measure import AttributionRequest, measure_attribution
from salient.validate.attribution.result import LABELS, DriftFigures, DriftResult
from salient.validate.cache import ValidationCache
from salient.validate.likelihood import streaming
from salient.validate.likelihood.streaming import text_tokens
from salient.validate.model_pair import ModelPair, open_pair
from salient.validate.render import render_stage

WINDOWS, LENGTH = 3, 64


@pytest.fixture(scope="module")
def checkpoint(toy, text, tmp_path_factory) -> Path:
    """The toy's checkpoint, calibrated on the session's text; do not change it."""
    out = tmp_path_factory.mktemp("drift") / "out"
    run(toy, out, text)
    return out


@pytest.fixture
def digits(tmp_path, monkeypatch) -> Path:
    """A text of other letters than the session's, and so few that it means nothing."""
    monkeypatch.setattr(token_packing, "FEWEST_DISTINCT", 1)
    monkeypatch.setattr(streaming, "FEWEST_PHRASES", 0)
    path = tmp_path / "digits.txt"
    path.write_text(("0110 " * 9 + "234567 ") * 20)
    return path


def opened(checkpoint: Path, model: Path) -> ModelPair:
    return open_pair(str(checkpoint), str(model), "cpu")


def windows_of(pair: ModelPair, text: Path) -> torch.Tensor:
    return text_tokens(pair, str(text), WINDOWS, LENGTH, ("", "")).reshape(-1, LENGTH)


def later(text: Path, folder: Path) -> Path:
    """The part of a text that no calibration saw."""
    path = folder / "later.txt"
    path.write_text("\n\n".join(text.read_text().split("\n\n")[15:]))
    return path


def test_another_kind_of_text_is_far_and_the_same_kind_near(
    checkpoint, toy, text, digits, tmp_path
):
    pair = opened(checkpoint, toy)
    calibration = find_calibration(pair)
    assert calibration.name == text.name
    assert calibration.ids.shape == (6, 64)
    two = halves(calibration.ids, WINDOWS, LENGTH)
    texts = {path.stem: windows_of(pair, path) for path in (later(text, tmp_path), digits)}
    yardstick, near, far = measure_drift(pair, two, texts, silent)
    result = DriftResult("toy", yardstick, {"near": near, "far": far})
    assert (result.label("near"), result.label("far")) == (LABELS["near"], LABELS["far"])
    assert near.log_ratio == pytest.approx(yardstick.log_ratio, rel=0.3)
    assert far.log_ratio > 3 * near.log_ratio
    assert far.salient_share < near.salient_share


def test_a_text_is_at_no_distance_from_itself(checkpoint, toy, text):
    pair = opened(checkpoint, toy)
    ids = windows_of(pair, text)
    assert measure_drift(pair, (ids, ids), {"itself": ids}, silent)[1] == DriftFigures(1.0, 0.0)


def test_the_figures_are_those_of_the_channels():
    calibration = torch.ones(200)
    calibration[:2] = torch.tensor([9.0, 8.0])
    text = calibration.clone()
    text[1], text[7] = 1.0, 9.0
    figures = drift_figures(calibration, text)
    assert figures.salient_share == 0.5
    expected = (torch.tensor(8.0).log() + torch.tensor(9.0).log()) / 200
    assert figures.log_ratio == pytest.approx(float(expected), rel=worst(200))


def test_halves_take_turns_over_all_of_the_calibration():
    ids = torch.arange(8)[:, None].expand(8, 10)
    first, second = halves(ids, 2, 10)
    assert first[:, 0].tolist() == [0, 4]
    assert second[:, 0].tolist() == [2, 6]
    first, second = halves(ids, 99, 5)
    assert len(first) == len(second) == 8
    assert halves(ids[:1], 4, 10) is None
    assert halves(ids[:2], 4, 99)[0].shape == (1, 10)


def test_drift_suggests_calibration_with_such_text(checkpoint, toy, text, digits, tmp_path):
    request = AttributionRequest((str(digits), str(text)), WINDOWS, LENGTH)
    stage = measure_attribution(opened(checkpoint, toy), request, ValidationCache(tmp_path), silent)
    drift = stage.to_dict()["drift"]
    assert drift["calibration"] == text.name
    assert [(row["text"], row["words"] == LABELS["far"]) for row in drift["texts"]] == [
        (str(digits), True),
        (str(text), False),
    ]
    last = stage.to_dict()["suggestions"][-1]
    assert last["what"].startswith("calibrate with text like yours (salient quantize ")
    assert (last["kl"], last["measured"]) == (None, False)
    assert render_stage(stage)[0][-1].rows[0][0] == "two halves of the calibration"
    assert stage.to_dict()["windows"] == 2  # one of each text


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"calibration_texts": "/no/such.txt"}, "its calibration, '/no/such.txt', is no file here"),
        ({"calibration_texts": "some/set"}, "its calibration, 'some/set', is no file here"),
        ({"calibration_texts": "x\0" * 2000}, "is no file here"),
        ({"calibration_texts": 7}, "run.calibration_texts is int, not str"),
        ({"samples": 7}, "is not what it was then"),
        ({"samples": "many"}, "run.samples is str, not int"),
        ({"samples": 10**9}, "run.samples is 1000000000, not from 1"),
        ({"sequence_length": 10**6}, "its calibration cannot be read again: .* samples of 1000000"),
        ({"calibration": "0" * 64}, "its calibration, 'toy.txt', is no file here"),
    ],
    ids=str,
)
def test_an_unavailable_calibration_has_a_reason(change, why, checkpoint, toy, tmp_path):
    out = copied(checkpoint, tmp_path / "out")
    rewrite_evidence(out, run=read_json(out / "salient.json")["run"] | change)
    calibration = find_calibration(opened(out, toy))
    assert calibration.ids is None
    assert re.search(why, calibration.reason)
    assert len(calibration.reason) < 600


def test_a_checkpoint_without_evidence_is_noted_in_the_stage(checkpoint, toy, text, tmp_path):
    out = copied(checkpoint, tmp_path / "out")
    for content in ("{", None):
        if content is None:
            (out / "salient.json").unlink()
        else:
            (out / "salient.json").write_text(content)
        assert find_calibration(opened(out, toy)).name is None
    request = AttributionRequest((str(text),), 1, LENGTH)
    stage = measure_attribution(opened(out, toy), request, ValidationCache(tmp_path), silent)
    assert stage.to_dict()["drift"]["texts"] == []
    assert "is not known: the checkpoint has no salient.json" in render_stage(stage)[1][-1]
