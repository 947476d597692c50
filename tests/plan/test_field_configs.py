"""Laws of released configs: counted as published; no key is lost in silence."""

import random
import tomllib

import pytest

from helpers.field_configs import (
    FIELD,
    NAMES,
    changed_keys,
    field_config,
    is_silently_wrong,
    named_shape,
)

PUBLISHED = tomllib.loads((FIELD / "published.toml").read_text(encoding="utf-8"))
GIB = 2**30
SAMPLE = 120  # of 10,000 changed keys; benchmarks/changed_keys.py takes all


@pytest.mark.parametrize("name", NAMES)
def test_a_released_config_is_read_whole(name):
    rough = PUBLISHED.get(name, {}).get("rough", False)
    assert named_shape(field_config(name), name).exact is not rough


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_released_config_is_counted_as_published(name):
    shape, row = named_shape(field_config(name), name), PUBLISHED[name]
    if "parameters" in row:
        parameters = round(row["parameters"] * 1e9)
        if row.get("rough"):
            assert shape.low <= parameters <= shape.high
        else:
            assert shape.parameters == pytest.approx(parameters, rel=0.005)
    if "token_bytes" in row:
        assert 2 * shape.values_per_token == row["token_bytes"]
    if "late_token_bytes" in row:
        assert 2 * shape.values_per_late_token == row["late_token_bytes"]
    if "cache_gib" in row:
        states = sum(block.cache.state for block in shape.blocks)
        cache = 2 * (shape.cache_values(131_072) - states)
        assert cache / GIB == pytest.approx(row["cache_gib"], rel=0.003)


def test_a_deleted_or_renamed_key_is_never_a_silent_wrong_count():
    changes = [change for name in NAMES for change in changed_keys(name)]
    sample = random.Random(21).sample(changes, SAMPLE)
    assert [str(change) for change in sample if is_silently_wrong(change)] == []
