"""Cached parts are reused while nothing that they depend on has changed."""

import json
import os
import time
from dataclasses import dataclass

import pytest

from salient.validate import cache
from salient.validate.cache import ValidationCache

SETTINGS = {"checkpoint": "a", "windows": 4}


@dataclass(frozen=True)
class Part:
    pairs: tuple[tuple[int, float], ...]
    note: str | None


class CountedMeasure:
    """Counts how often something was measured."""

    def __init__(self, value=None):
        self.count, self.value = 0, value if value is not None else {"kl": 0.1}

    def __call__(self):
        self.count += 1
        return self.value


def test_a_resumed_run_measures_a_part_once(tmp_path):
    measure = CountedMeasure()
    for _ in range(2):
        stored = ValidationCache(tmp_path, resume=True)
        assert stored.part("likelihood", SETTINGS, measure, dict[str, float]) == {"kl": 0.1}
    assert (measure.count, stored.reused) == (1, 1)


def test_a_fresh_run_measures_the_checkpoint_again_and_reuses_the_reference(tmp_path):
    own, shared = CountedMeasure(), CountedMeasure()
    for _ in range(2):
        stored = ValidationCache(tmp_path)
        stored.part("answers", SETTINGS, own, dict[str, float])
        stored.part("answers", {"reference": "b"}, shared, dict, shared=True)
    assert (own.count, shared.count) == (2, 1)


@pytest.mark.parametrize("change", [{"checkpoint": "b"}, {"windows": 5}, {"new": None}], ids=str)
def test_other_settings_are_another_part(change, tmp_path):
    measure = CountedMeasure()
    for settings in (SETTINGS, SETTINGS | change):
        ValidationCache(tmp_path, resume=True).part(
            "likelihood", settings, measure, dict[str, float]
        )
    ValidationCache(tmp_path, resume=True).part("context", SETTINGS, measure, dict[str, float])
    assert measure.count == 3


def test_a_part_of_another_release_is_not_reused(tmp_path, monkeypatch):
    measure = CountedMeasure()
    for version in ("1.0", "1.1"):
        monkeypatch.setattr(cache, "__version__", version)
        ValidationCache(tmp_path, resume=True).part(
            "likelihood", SETTINGS, measure, dict[str, float]
        )
    assert measure.count == 2


def test_a_cached_part_equals_the_measured_one(tmp_path):
    measure = CountedMeasure(Part(((1, 2.5),), None))
    first = ValidationCache(tmp_path).part("x", SETTINGS, measure, Part)
    assert first == ValidationCache(tmp_path, resume=True).part("x", SETTINGS, measure, Part)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"value": {"kl": "much"}}', '{"settings": 1}', "\0"]
)
def test_a_damaged_part_is_measured_again(content, tmp_path):
    measure = CountedMeasure()
    ValidationCache(tmp_path).part("x", SETTINGS, measure, dict[str, float])
    (path,) = tmp_path.glob("*.json")
    path.write_text(content)
    assert (
        ValidationCache(tmp_path, resume=True).part("x", SETTINGS, measure, dict[str, float])
        == measure.value
    )
    assert measure.count == 2
    assert json.loads(path.read_text())["settings"] == SETTINGS


def test_a_measurement_that_fails_leaves_nothing(tmp_path):
    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ValidationCache(tmp_path).part("x", SETTINGS, fails, dict[str, float])
    assert list(tmp_path.iterdir()) == []


def test_old_parts_are_removed(tmp_path):
    for number in range(2):
        ValidationCache(tmp_path).part("x", {"number": number}, CountedMeasure(), dict[str, float])
    old, new = sorted(tmp_path.glob("*.json"))
    then = time.time() - cache.MAX_AGE - 60
    os.utime(old, (then, then))
    ValidationCache(tmp_path).remove_old()
    assert list(tmp_path.iterdir()) == [new]
