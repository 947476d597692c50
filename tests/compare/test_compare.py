"""Comparisons of a toy: one table, figures equal to those of each alone, faults named."""

import json

import pytest

from helpers.rtn_checkpoints import rounded
from helpers.toy_models import toy_folder, toy_text
from salient import api
from salient.compare.compare_run import is_front
from salient.core.errors import RequestError


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    rounded(toy_folder(folder / "toy"), folder / "checkpoint")
    toy_text(folder)
    return folder


def compare(ground, *contestants, **options):
    return api.compare(
        ground / "toy",
        contestants=contestants,
        text=str(next(ground.glob("*.txt"))),
        positions=1024,
        sequence_length=128,
        scheme="w4-g32",
        samples=4,
        device="cpu",
        **options,
    )


def test_one_comparison_has_the_figures_of_each_alone_and_names_what_cannot_run(ground, tmp_path):
    checkpoint = str(ground / "checkpoint")
    result = compare(ground, "rtn", "gptq", "q4_1", "q9_x", checkpoint, report=tmp_path / "out")
    by_name = {each.name: each for each in result.comparison.contestants}
    assert "No contestant 'q9_x'" in by_name["q9_x"].reason
    assert by_name["rtn"].figures.kl.value == pytest.approx(
        by_name[checkpoint].figures.kl.value, rel=0.02
    )
    alone = compare(ground, "gptq", fresh=True).comparison.contestants[0]
    assert alone.figures == by_name["gptq"].figures
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["positions"] == 1024
    assert "<svg" in (tmp_path / "out" / "compare.html").read_text()


def test_a_comparison_without_any_contestant_is_an_error(ground):
    with pytest.raises(RequestError, match="No contestant could be measured"):
        compare(ground, "q9_x")


def test_the_front_has_what_no_other_beats_in_both():
    points = [(4.0, 0.2), (4.5, 0.1), (4.5, 0.3), (5.0, 0.1)]
    assert [is_front(point, points) for point in points] == [True, True, False, False]
