"""Parts of a long measurement: found again when nothing that they depend on has changed."""

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


class Made:
    """Counts how often something was measured."""

    def __init__(self, value=None):
        self.count, self.value = 0, value if value is not None else {"kl": 0.1}

    def __call__(self):
        self.count += 1
        return self.value


def test_a_part_is_measured_once_where_a_run_goes_on(tmp_path):
    made = Made()
    for _ in range(2):
        kept = ValidationCache(tmp_path, resume=True)
        assert kept.part("likelihood", SETTINGS, made, dict[str, float]) == {"kl": 0.1}
    assert (made.count, kept.reused) == (1, 1)


def test_a_fresh_run_measures_the_checkpoint_again_and_takes_the_reference(tmp_path):
    own, shared = Made(), Made()
    for _ in range(2):
        kept = ValidationCache(tmp_path)
        kept.part("answers", SETTINGS, own, dict[str, float])
        kept.part("answers", {"reference": "b"}, shared, dict, shared=True)
    assert (own.count, shared.count) == (2, 1)


@pytest.mark.parametrize("change", [{"checkpoint": "b"}, {"windows": 5}, {"new": None}], ids=str)
def test_what_depends_on_something_else_is_another_part(change, tmp_path):
    made = Made()
    for settings in (SETTINGS, SETTINGS | change):
        ValidationCache(tmp_path, resume=True).part("likelihood", settings, made, dict[str, float])
    ValidationCache(tmp_path, resume=True).part("context", SETTINGS, made, dict[str, float])
    assert made.count == 3


def test_a_part_of_another_release_is_not_taken(tmp_path, monkeypatch):
    made = Made()
    for version in ("1.0", "1.1"):
        monkeypatch.setattr(cache, "__version__", version)
        ValidationCache(tmp_path, resume=True).part("likelihood", SETTINGS, made, dict[str, float])
    assert made.count == 2


def test_what_is_measured_reads_as_what_is_found_again(tmp_path):
    made = Made(Part(((1, 2.5),), None))
    first = ValidationCache(tmp_path).part("x", SETTINGS, made, Part)
    assert first == ValidationCache(tmp_path, resume=True).part("x", SETTINGS, made, Part)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"value": {"kl": "much"}}', '{"settings": 1}', "\0"]
)
def test_a_damaged_part_is_measured_again(content, tmp_path):
    made = Made()
    ValidationCache(tmp_path).part("x", SETTINGS, made, dict[str, float])
    (path,) = tmp_path.glob("*.json")
    path.write_text(content)
    assert (
        ValidationCache(tmp_path, resume=True).part("x", SETTINGS, made, dict[str, float])
        == made.value
    )
    assert made.count == 2
    assert json.loads(path.read_text())["settings"] == SETTINGS


def test_a_measurement_that_fails_leaves_nothing(tmp_path):
    def fails():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ValidationCache(tmp_path).part("x", SETTINGS, fails, dict[str, float])
    assert list(tmp_path.iterdir()) == []


def test_old_parts_are_forgotten_and_new_ones_kept(tmp_path):
    for number in range(2):
        ValidationCache(tmp_path).part("x", {"number": number}, Made(), dict[str, float])
    old, new = sorted(tmp_path.glob("*.json"))
    then = time.time() - cache.MAX_AGE - 60
    os.utime(old, (then, then))
    ValidationCache(tmp_path).remove_old()
    assert list(tmp_path.iterdir()) == [new]
