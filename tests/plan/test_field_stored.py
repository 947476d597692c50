"""Laws of released quantized checkpoints: sized as published, served as they are."""

import tomllib
from dataclasses import replace

import pytest

from helpers.field_configs import FIELD, NAMES, field_config, named_shape
from salient.plan.commands import commands
from salient.plan.device_names import find_gpu
from salient.plan.engine_profiles import ENGINES
from salient.plan.memory import Workload, budget
from salient.plan.ranking import candidates
from salient.plan.requirements import Requirements
from salient.plan.stored_format import STORED, stored_format
from salient.plan.weight_formats import stored_weights
from salient.shapes.quantization_parts import quantization_of_name

PUBLISHED = tomllib.loads((FIELD / "published.toml").read_text(encoding="utf-8"))
DEVICES = ("RTX 4090", "B200", "MI300X")
GIB = 2**30


def stored_shapes():
    """The released checkpoints that are quantized by their config or name, by name."""
    for name in NAMES:
        shape = named_shape(field_config(name), name)
        settings = shape.quantization or quantization_of_name(name)[1]
        if settings:
            yield name, replace(shape, quantization=settings)


@pytest.fixture(scope="module")
def shapes():
    return dict(stored_shapes())


@pytest.mark.parametrize("name", [n for n, row in PUBLISHED.items() if "files_gb" in row])
def test_the_files_of_a_released_checkpoint_are_as_large_as_published(name, shapes):
    stored = stored_weights(shapes[name], stored_format(shapes[name]).form)
    assert stored.files / 1e9 == pytest.approx(PUBLISHED[name]["files_gb"], rel=0.03)


@pytest.mark.parametrize("name", [n for n, row in PUBLISHED.items() if "loaded_gib" in row])
def test_the_weights_of_a_released_checkpoint_take_what_logs_print(name, shapes):
    load = Workload(ENGINES["vllm"], find_gpu("H100"), 4096)
    weights = budget(shapes[name], stored_format(shapes[name]).form, load).items[0]
    assert weights.bytes / GIB == pytest.approx(PUBLISHED[name]["loaded_gib"], rel=0.03)


def test_every_released_quantization_is_read(shapes):
    assert len(shapes) > 30
    assert [name for name, shape in shapes.items() if not stored_format(shape).form.rules] == []


def test_no_line_of_a_released_quantized_checkpoint_quantizes_it(shapes):
    for index, name in enumerate(list(shapes)[::3]):
        load = Workload(ENGINES["vllm"], find_gpu(DEVICES[index % len(DEVICES)]), 4096, tp=4)
        for one in candidates(shapes[name], load, Requirements()):
            lines = commands("org/model", shapes[name], one, load)
            assert not any("quantiz" in line for line in lines), name
            assert one.form.ready is (one.form.name == STORED)
            assert bool(lines) is one.form.ready, (name, one.form.name)
